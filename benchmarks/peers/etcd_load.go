// Load for etcd, in the shapes of `raft bench`: so many clients, each with one operation
// outstanding, over so many connections, in a closed loop. Prints one JSON object.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

func main() {
	endpoint := flag.String("endpoint", "", "the leader's client address")
	connections := flag.Int("connections", 1, "how many connections")
	clients := flag.Int("clients", 1, "how many clients on them, one operation each")
	reads := flag.Bool("reads", false, "linearizable reads in place of writes")
	valueBytes := flag.Int("value-bytes", 64, "size of a value")
	seconds := flag.Float64("seconds", 3, "how long is measured")
	warmUp := flag.Float64("warm-up", 1, "how long load runs before")
	flag.Parse()

	pool := make([]*clientv3.Client, *connections)
	for i := range pool {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: []string{*endpoint}, DialTimeout: 5 * time.Second,
		})
		check(err)
		pool[i] = client
	}
	value := strings.Repeat("v", *valueBytes)
	ctx := context.Background()
	if *reads {
		var filling sync.WaitGroup
		for i := 0; i < 100; i++ {
			filling.Add(1)
			go func(first int) {
				defer filling.Done()
				for number := first; number < 10000; number += 100 {
					_, err := pool[first%len(pool)].Put(ctx, key(number), value)
					check(err)
				}
			}(i)
		}
		filling.Wait()
	}
	begin := time.Now().Add(time.Duration(*warmUp * float64(time.Second)))
	end := begin.Add(time.Duration(*seconds * float64(time.Second)))
	var mutex sync.Mutex
	var all []float64
	failures := 0
	var group sync.WaitGroup
	for i := 0; i < *clients; i++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			chance := rand.New(rand.NewSource(int64(number)))
			client := pool[number%len(pool)]
			var own []float64
			failed := 0
			for {
				issued := time.Now()
				if issued.After(end) {
					break
				}
				var err error
				if *reads {
					_, err = client.Get(ctx, key(chance.Intn(10000)))
				} else {
					_, err = client.Put(ctx, key(chance.Intn(10000)), value)
				}
				answered := time.Now()
				if err != nil {
					failed++
					time.Sleep(10 * time.Millisecond)
				} else if answered.After(begin) && answered.Before(end) {
					own = append(own, answered.Sub(issued).Seconds()*1000)
				}
			}
			mutex.Lock()
			all = append(all, own...)
			failures += failed
			mutex.Unlock()
		}(i)
	}
	group.Wait()
	sort.Float64s(all)
	json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"ops_per_second": float64(len(all)) / *seconds,
		"p50_ms":         at(all, 0.5), "p99_ms": at(all, 0.99), "p999_ms": at(all, 0.999),
		"failures": failures,
	})
}

func key(number int) string { return fmt.Sprintf("key-%012d", number) }

func at(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	place := int(float64(len(sorted)) * share)
	if place >= len(sorted) {
		place = len(sorted) - 1
	}
	return sorted[place]
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd_load:", err)
		os.Exit(1)
	}
}
