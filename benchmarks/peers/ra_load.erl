%% Three members of a ra cluster, each an Erlang node of its own, with its log synced, and a map for
%% a machine. `-run ra_load main lead` starts it, puts the load on from inside the leader's node and
%% prints one JSON object; `-run ra_load main follow` is what it talks to.
-module(ra_load).
-behaviour(ra_machine).
-export([main/1, init/1, apply/3]).

init(_) -> #{}.

apply(_, {Key, Value}, State) -> {State#{Key => Value}, ok}.

main(["follow", Name, Directory]) ->
    started(Name, Directory),
    io:get_line(""),
    halt(0);
main(["lead", Name, Directory, Others, Clients, Pipe, ValueBytes, WarmUp, Seconds]) ->
    started(Name, Directory),
    Nodes = [list_to_atom(Each) || Each <- string:tokens(Others, ",")],
    ok = reached(Nodes, 100),
    Members = [{load, Node} || Node <- [node() | Nodes]],
    {ok, _, _} = ra:start_cluster(default, <<"load">>, {module, ?MODULE, #{}}, Members),
    ra:transfer_leadership({load, hd(Nodes)}, {load, node()}),
    Leader = leader({load, node()}, 200),
    Value = binary:copy(<<"v">>, list_to_integer(ValueBytes)),
    Begin = now_us() + round(1.0e6 * list_to_float(WarmUp)),
    End = Begin + round(1.0e6 * list_to_float(Seconds)),
    Self = self(),
    Count = list_to_integer(Clients),
    [spawn_link(fun() -> client(Self, Leader, Value, list_to_integer(Pipe), Begin, End) end)
     || _ <- lists:seq(1, Count)],
    Found = lists:sort(lists:append([receive {done, Each} -> Each end || _ <- lists:seq(1, Count)])),
    Length = length(Found),
    Sorted = list_to_tuple(Found),
    At = fun(Share) -> element(1 + min(Length - 1, trunc(Length * Share)), Sorted) / 1000 end,
    io:format("{\"ops_per_second\": ~.1f, \"p50_ms\": ~.4f, \"p99_ms\": ~.4f, \"p999_ms\": ~.4f}~n",
              [Length / list_to_float(Seconds), At(0.5), At(0.99), At(0.999)]),
    halt(0).

started(Name, Directory) ->
    {ok, _} = net_kernel:start([list_to_atom(Name), longnames]),
    erlang:set_cookie(node(), raft_bench),
    logger:set_primary_config(level, error),
    application:load(ra),
    ok = application:set_env(ra, data_dir, Directory),
    {ok, _} = application:ensure_all_started(ra),
    {ok, _} = ra_system:start_default().

reached(_, 0) -> {error, nobody};
reached(Nodes, Left) ->
    Ready = fun(Node) ->
        net_adm:ping(Node) =:= pong andalso is_pid(rpc:call(Node, erlang, whereis, [ra_log_wal]))
            orelse is_pid(rpc:call(Node, erlang, whereis, [ra_log_meta]))
    end,
    case lists:all(Ready, Nodes) of
        true -> ok;
        false -> timer:sleep(100), reached(Nodes, Left - 1)
    end.

%% From inside the leader's node, as the workload says: wait until it is this one.
leader(Own, 0) -> Own;
leader(Own, Left) ->
    case ra:members(Own) of
        {ok, _, Own} -> Own;
        {ok, _, Other} -> ra:transfer_leadership(Other, Own), timer:sleep(50), leader(Own, Left - 1);
        _ -> timer:sleep(50), leader(Own, Left - 1)
    end.

client(Parent, Leader, Value, Pipe, Begin, End) ->
    %% ra joins commands of low priority into batches: its faster way, but for one at a time.
    put(priority, case Pipe of 1 -> normal; _ -> low end),
    Open = lists:foldl(fun(Number, Open) -> issue(Leader, Number, Value, Open) end,
                       #{}, lists:seq(1, Pipe)),
    Parent ! {done, loop(Leader, Value, Pipe + 1, Open, Begin, End, [])}.

issue(Leader, Number, Value, Open) ->
    Key = rand:uniform(10000),
    ok = ra:pipeline_command(Leader, {Key, Value}, Number, get(priority)),
    Open#{Number => now_us()}.

loop(Leader, Value, Next, Open, Begin, End, Found) ->
    receive
        {ra_event, _, {applied, Answers}} ->
            Now = now_us(),
            case Now > End of
                true -> Found;
                false ->
                    {Later, Then, More} = lists:foldl(
                        fun({Number, _}, {N, O, F}) ->
                            {Issued, Left} = maps:take(Number, O),
                            {N + 1, issue(Leader, N, Value, Left),
                             case Now > Begin of true -> [Now - Issued | F]; false -> F end}
                        end, {Next, Open, Found}, Answers),
                    loop(Leader, Value, Later, Then, Begin, End, More)
            end;
        {ra_event, _, Other} ->
            io:format(standard_error, "ra_load: ~p~n", [Other]),
            halt(1)
    after 10000 ->
        io:format(standard_error, "ra_load: no answer in 10 s~n", []),
        halt(1)
    end.

now_us() -> erlang:monotonic_time(microsecond).
