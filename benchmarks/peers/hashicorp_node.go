// One server of hashicorp/raft with BoltDB, synced, and a map for a machine. The first one puts the
// load on from inside, once it leads, prints one JSON object and ends.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb"
)

type machine struct {
	mutex  sync.Mutex
	values map[string]string
}

func (m *machine) Apply(entry *raft.Log) interface{} {
	parts := strings.SplitN(string(entry.Data), "=", 2)
	m.mutex.Lock()
	m.values[parts[0]] = parts[1]
	m.mutex.Unlock()
	return nil
}

type nothing struct{}

func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return nothing{}, nil }
func (m *machine) Restore(io.ReadCloser) error         { return nil }
func (nothing) Persist(sink raft.SnapshotSink) error   { return sink.Close() }
func (nothing) Release()                               {}

func main() {
	number := flag.Int("number", 0, "which of the addresses this is")
	addresses := flag.String("addresses", "", "of all servers, parted by commas")
	directory := flag.String("directory", "", "where its files go")
	loops := flag.Int("loops", 8, "how many issue, each in order")
	window := flag.Int("window", 512, "how many each keeps outstanding")
	batch := flag.Int("batch", 1024, "MaxAppendEntries")
	valueBytes := flag.Int("value-bytes", 64, "size of a value")
	seconds := flag.Float64("seconds", 3, "how long is measured")
	warmUp := flag.Float64("warm-up", 1, "how long load runs before")
	flag.Parse()

	all := strings.Split(*addresses, ",")
	own := all[*number]
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(own)
	config.MaxAppendEntries = *batch
	config.LogOutput = io.Discard
	config.SnapshotThreshold = 1 << 40
	store, err := raftboltdb.NewBoltStore(filepath.Join(*directory, fmt.Sprintf("bolt%d", *number)))
	check(err)
	transport, err := raft.NewTCPTransport(own, nil, 3, 10*time.Second, io.Discard)
	check(err)
	node, err := raft.NewRaft(config, &machine{values: map[string]string{}}, store, store,
		raft.NewInmemSnapshotStore(), transport)
	check(err)
	if *number != 0 {
		// Whoever started it ends it.
		io.Copy(io.Discard, os.Stdin)
		return
	}
	var servers []raft.Server
	for _, each := range all {
		servers = append(servers, raft.Server{
			ID: raft.ServerID(each), Address: raft.ServerAddress(each),
		})
	}
	check(node.BootstrapCluster(raft.Configuration{Servers: servers}).Error())
	for deadline := time.Now().Add(20 * time.Second); node.State() != raft.Leader; {
		if time.Now().After(deadline) {
			check(fmt.Errorf("it did not become the leader"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	load(node, *loops, *window, strings.Repeat("v", *valueBytes), *warmUp, *seconds)
}

type issued struct {
	future raft.ApplyFuture
	at     time.Time
}

func load(node *raft.Raft, loops, window int, value string, warmUp, seconds float64) {
	begin := time.Now().Add(time.Duration(warmUp * float64(time.Second)))
	end := begin.Add(time.Duration(seconds * float64(time.Second)))
	var mutex sync.Mutex
	var found []float64
	failures := 0
	var group sync.WaitGroup
	for i := 0; i < loops; i++ {
		waiting, places := make(chan issued, window), make(chan struct{}, window)
		group.Add(2)
		go func(loop int) {
			defer group.Done()
			for count := 0; time.Now().Before(end); count++ {
				places <- struct{}{}
				at := time.Now()
				command := fmt.Sprintf("key-%012d=%s", (loop*1000003+count)%10000, value)
				waiting <- issued{node.Apply([]byte(command), 10*time.Second), at}
			}
			close(waiting)
		}(i)
		go func() {
			defer group.Done()
			var mine []float64
			failed := 0
			for each := range waiting {
				err := each.future.Error()
				<-places
				now := time.Now()
				if err != nil {
					failed++
				} else if now.After(begin) && now.Before(end) {
					mine = append(mine, now.Sub(each.at).Seconds()*1000)
				}
			}
			mutex.Lock()
			found = append(found, mine...)
			failures += failed
			mutex.Unlock()
		}()
	}
	group.Wait()
	sort.Float64s(found)
	at := func(share float64) float64 {
		if len(found) == 0 {
			return 0
		}
		return found[int(float64(len(found)-1)*share)]
	}
	json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"ops_per_second": float64(len(found)) / seconds,
		"p50_ms":         at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999),
		"failures": failures,
	})
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "hashicorp_node:", err)
		os.Exit(1)
	}
}
