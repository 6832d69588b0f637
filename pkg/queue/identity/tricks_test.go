package identity_test

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// operation does one thing that should lead nowhere and says of which kind it was.
func (h *hostility) operation(r *rand.Rand, n int) string {
	switch r.IntN(8) {
	case 0, 1, 2:
		h.ask(r, h.foreignSubject(r), n)
		return "send to others"
	case 3:
		h.listen(r)
		return "listen to others"
	case 4:
		h.divert(r)
		return "divert answers"
	case 5:
		h.acknowledge(r)
		return "acknowledge for others"
	case 6:
		h.atOwnDesk(r)
		return "own desk, others' tasks"
	default:
		h.ask(r, h.apiSubject(r), n)
		return "JetStream and system API"
	}
}

// ask sends a message that nobody may answer, and notes an answer.
func (h *hostility) ask(r *rand.Rand, subject string, n int) {
	inbox := fmt.Sprintf("_INBOX.attack.%d", n)
	sub, err := h.nc.Subscribe(inbox, func(m *nats.Msg) {
		if m.Header.Get("Status") != "503" { // nobody is there
			h.note(&h.read, m)
		}
	})
	require.NoError(h.t, err)
	if n >= 400 {
		require.NoError(h.t, sub.AutoUnsubscribe(1))
	}
	m := &nats.Msg{Subject: subject, Reply: inbox, Data: h.body(r), Header: h.headers(r)}
	if r.IntN(4) == 0 {
		m.Reply = h.reply(r)
	}
	h.publish(m)
}

// listen subscribes to what is not the attacker's.
func (h *hostility) listen(r *rand.Rand) {
	subjects := []string{
		">", "*", "*.>", "ark.>", "ark.*.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$SYS.>", "$KV.>", "$O.>", "_R_.>", "_INBOX_>",
		"ark.cancel.>", "ark.cancel.*.*.*", "ark.cancel.default.*.*", "ark.cancel.default.writer.>", "$SRV.>", "_GR_.>", "$MQTT.>", "$LDS.>",
		h.foreignSubject(r), h.apiSubject(r), "ark.task.>", "ark.result.>", "ark.work.>", "ark.desk.>",
	}
	var err error
	f := func(m *nats.Msg) {
		if !h.mine(m.Subject) && !strings.HasPrefix(m.Subject, "ark.cancel.default.writer.") {
			h.note(&h.read, m)
		}
	}
	subject := pick(r, subjects)
	var sub *nats.Subscription
	if r.IntN(3) == 0 {
		sub, err = h.nc.QueueSubscribe(subject, pick(r, []string{"ark-work", "ark-desk", "q"}), f)
	} else {
		sub, err = h.nc.Subscribe(subject, f)
	}
	if err == nil && r.IntN(2) == 0 {
		err = sub.Unsubscribe()
	}
	if err != nil {
		require.ErrorIs(h.t, err, nats.ErrBadSubject)
	}
}

// divert sends what is allowed and names a subject of somebody else for the answer. Requests for tasks end soon: what an
// agent takes away from its own other processes is its own affair.
func (h *hostility) divert(r *rand.Rand) {
	if r.IntN(3) == 0 {
		h.send("$JS.API.CONSUMER.MSG.NEXT.ARK_TASKS."+h.consumer, h.reply(r),
			[]byte(pick(r, []string{`{"batch":5,"expires":1000000}`, `{"batch":1,"no_wait":true}`})), h.headers(r))
		return
	}
	h.send(pick(r, []string{
		"ark.desk.default.writer.hello", "ark.desk.default.writer.waiting",
		"ark.work.default.writer.takeover", "ark.work.default.writer.payload-get", "ark.work.default.writer.nonsense", "ark.work.default.writer.memory-get",
		"ark.chunk.default.writer.run-1.t", "ark.progress.default.writer.run-1.t", "$JS.ACK.ARK_TASKS." + h.consumer + ".1.1.1.1.0",
	}), h.reply(r), []byte(pick(r, []string{`{"batch":5}`, `{}`, `+ACK`, ""})), h.headers(r))
}

// acknowledge answers, in every way, for messages that the attacker was not given.
func (h *hostility) acknowledge(r *rand.Rand) {
	consumer := pick(r, []string{h.consumer, h.consumer, "default__writer", "default__writer2", "other__writer", "default__asleep", "*", ">"})
	stream := pick(r, []string{"ARK_TASKS", "ARK_TASKS", "ARK_TASKS", "ARK_RESULTS", "KV_ark_memory", "*"})
	subject := fmt.Sprintf("$JS.ACK.%s.%s.%d.%d.%d.1700000000000000000.%d", stream, consumer, r.IntN(3), r.IntN(40), r.IntN(40), r.IntN(3))
	switch r.IntN(10) {
	case 2, 3, 4, 5:
		subject = fmt.Sprintf("$JS.ACK.ARK_TASKS."+h.consumer+".%d.%d.%d.1700000000000000000.%s", r.IntN(3), r.IntN(40), r.IntN(40), pick(r, []string{"0", "1", "x", "_"}))
	case 0:
		subject = fmt.Sprintf("$JS.ACK._.hash.%s.%s.1.%d.1.1700000000000000000.0", stream, consumer, r.IntN(40))
	case 1:
		subject += ".extra"
	}
	h.send(subject, h.reply(r), []byte(pick(r, []string{"+ACK", "", "+TERM", "+TERM no", "-NAK", `-NAK {"delay":1}`, "+WPI", `+NXT {"batch":9,"expires":1000000}`, "junk"})), nil)
}

// atOwnDesk asks under the attacker's own name for what belongs to others.
func (h *hostility) atOwnDesk(r *rand.Rand) {
	tk := pick(r, h.foreign)
	id, run := queue.Token(tk.ID), queue.Token(tk.Run.UID)
	forged := encode(h.t, newResult(tk, "forged"))
	takeOver := encode(h.t, map[string]any{"task": tk.ID, "pod": "p", "id": "i", "patience": 1000})
	held := encode(h.t, map[string]any{
		"run": tk.Run.UID, "task": tk.ID, "epoch": r.IntN(3), "n": 1, "id": "x", "key": "k", "from": 1, "ref": h.payload, "length": 100, "count": 5, "wait": 1,
		"entries": []any{map[string]any{"note": secret}}, "entry": map[string]any{"id": "x", "text": secret},
	})
	requests := [][2]string{
		{"ark.desk.default.writer.result." + run + "." + id, forged},
		{"ark.desk.default.writer.result.run-2." + id, forged},
		{"ark.desk.default.writer.dead." + id, `{"reason":"no","unread":true}`},
		{"ark.desk.default.writer.dead." + queue.Token("*"), `{"reason":"no"}`},
		{"ark.desk.default.writer.consumer." + queue.Token("default") + "." + queue.Token("writer2"), `{"ackWait":1000}`},
		{"ark.desk.default.writer.consumer", pick(r, []string{`{"ackWait":-1}`, `{"ackWait":99999999999999999}`, `junk`, strings.Repeat("[", 5000)})},
		{"ark.desk.default.writer.result.*.*", forged},
		{"ark.desk.default.writer.>", "{}"},
		{"ark.desk.default.writer.unknown", "{}"},
		{"ark.work.default.writer.takeover", takeOver},
		{"ark.work.default.writer." + pick(r, []string{
			"journal", "append", "withdraw", "delegate", "await", "release", "payload-put", "payload-get", "memory-get", "memory-put", "probe", "verdict", "report",
		}), held},
		{"ark.chunk.default.writer." + run + ".*", secret},
		{"ark.work.default.writer.*", takeOver},
	}
	request := pick(r, requests)
	h.send(request[0], "_INBOX.own.x", []byte(request[1]), h.headers(r))
}

func (h *hostility) send(subject, reply string, body []byte, headers nats.Header) {
	h.t.Helper()
	h.publish(&nats.Msg{Subject: subject, Reply: reply, Data: body, Header: headers})
}

func (h *hostility) publish(m *nats.Msg) {
	h.t.Helper()
	if err := h.nc.PublishMsg(m); err != nil {
		require.ErrorIs(h.t, err, nats.ErrBadSubject)
	}
}

// foreignSubject is one that belongs to a victim, or to ark.
func (h *hostility) foreignSubject(r *rand.Rand) string {
	tk := pick(r, h.foreign)
	who := queue.Token(tk.Namespace) + "." + queue.Token(tk.Agent)
	id, run := queue.Token(tk.ID), queue.Token(tk.Run.UID)
	consumer := queue.Token(tk.Namespace) + "__" + queue.Token(tk.Agent)
	return pick(r, []string{
		"ark.task." + who + "." + id, "ark.task." + who + ".new", "ark.task.default.writer.new", "ark.task.default.writer." + id,
		"ark.result." + who + "." + run + "." + id, "ark.result.default.writer." + run + "." + id, "ark.result.default.writer.run-9.t",
		"ark.delegated." + who + "." + run + "." + id, "ark.delegated.default.writer.run-1.t",
		"ark.call." + who + "." + run + "." + id, "ark.budget.default.run." + run, "ark.budget.default.agent.writer", "ark.ledger.log", "ark.ledger.log.x",
		"ark.payload." + run + ".m.abc", "ark.payload.run-1.m.abc", "ark.payload.run-1.c.abc.0", "ark.dead." + who + ".x", "ark.dead.default.writer." + id + ".task",
		"ark.work." + who + ".takeover", "ark.work." + who + ".payload-get", "ark.work." + who + ".release", "ark.work." + who + ".memory-get",
		"ark.desk." + who + ".hello", "ark.desk." + who + ".consumer", "ark.desk." + who + ".result." + run + "." + id, "ark.desk." + who + ".dead." + id,
		"ark.desk.default.writer", "ark.work.default.writer", "ark.desk.default.*.hello", "ark.work.*.*.takeover", "ark.desk.>", "ark.work.default.>",
		"ark.cancel." + who + "." + id, "ark.cancel.default.writer." + id, "ark.chunk." + who + "." + run + "." + id, "ark.progress." + who + "." + run + "." + id,
		"ark.chunk.default.writer." + run, "ark.chunk.default.writer2.writer." + id, "ark.reports.default.writer", "ark.reports." + who,
		"$JS.API.CONSUMER.MSG.NEXT.ARK_TASKS." + consumer, "$JS.ACK.ARK_TASKS." + consumer + ".1.1.1.1.0", "$JS.FC.ARK_TASKS." + consumer,
		"$KV.ark_memory." + who, "$KV.ark_memory.default.writer", "$KV.ark_probes." + who, "$O.ark.C.x", "$O.ark.M.x",
		"_INBOX.victim", "_R_.abcdef.ghijkl", "_GR_.x.y", "$SRV.PING", "$SRV.INFO.x", "$MQTT.msgs.x", "_", "", "ark", "ark..x", "ark.task.", ".ark",
		"ark.task.\x00.x", "ark.task." + who + ".\xff", "ark.result.default.writer\x01.x.y",
	})
}

// apiSubject is one of the APIs of JetStream and of the server.
func (h *hostility) apiSubject(r *rand.Rand) string {
	stream := pick(r, []string{"ARK_TASKS", "ARK_RESULTS", "ARK_LEDGER", "ARK_PAYLOADS", "ARK_DEAD", "KV_ark_memory", "KV_ark_probes", "OBJ_ark", "MINE", "*", ">"})
	tk := pick(r, h.foreign)
	who := queue.Token(tk.Namespace) + "." + queue.Token(tk.Agent)
	consumer := pick(r, []string{"default__writer", "default__writer2", "other__writer", "default__asleep", "mine", "*"})
	system := pick(r, []string{
		"$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.SUBSZ", "$SYS.REQ.SERVER.PING.JSZ",
		"$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.STATZ", "$SYS.REQ.ACCOUNT.NSUBS", "$SYS.REQ.CLAIMS.LIST", "$SYS.REQ.CLAIMS.UPDATE",
		"$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.PACK", "$SYS.REQ.ACCOUNT.x.CLAIMS.LOOKUP", "$SYS.REQ.SERVER.RELOAD", "$SYS.REQ.SERVER.x.KICK", "$SYS.ACCOUNT.x.CONNECT",
	})
	return pick(r, []string{
		"$JS.API.INFO", "$JS.API.ACCOUNT.PURGE.x", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO." + stream, "$JS.API.STREAM.CREATE." + stream,
		"$JS.API.STREAM.UPDATE." + stream, "$JS.API.STREAM.DELETE." + stream, "$JS.API.STREAM.PURGE." + stream, "$JS.API.STREAM.MSG.GET." + stream,
		"$JS.API.STREAM.MSG.DELETE." + stream, "$JS.API.STREAM.SNAPSHOT." + stream, "$JS.API.STREAM.RESTORE." + stream, "$JS.API.STREAM.PEER.REMOVE." + stream,
		"$JS.API.STREAM.LEADER.STEPDOWN." + stream, "$JS.API.DIRECT.GET." + stream, "$JS.API.DIRECT.GET." + stream + ".ark.task." + who + ".x",
		"$JS.API.DIRECT.GET.ARK_RESULTS.ark.result.>", "$JS.API.CONSUMER.NAMES." + stream, "$JS.API.CONSUMER.LIST." + stream, "$JS.API.CONSUMER.INFO." + stream + "." + consumer,
		"$JS.API.CONSUMER.CREATE." + stream, "$JS.API.CONSUMER.CREATE." + stream + "." + consumer, "$JS.API.CONSUMER.CREATE." + stream + "." + consumer + ".ark.task.>",
		"$JS.API.CONSUMER.DURABLE.CREATE." + stream + "." + consumer, "$JS.API.CONSUMER.DELETE." + stream + "." + consumer, "$JS.API.CONSUMER.PAUSE." + stream + "." + consumer,
		"$JS.API.CONSUMER.RESET." + stream + "." + consumer, "$JS.API.CONSUMER.UNPIN." + stream + "." + consumer, "$JS.API.CONSUMER.MSG.NEXT." + stream + ".other__writer",
		"$JS.API.CONSUMER.MSG.NEXT.ARK_TASKS.default__writer.x", "$JS.API.CONSUMER.MSG.NEXT.ARK_TASKS.*", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE",
		"$JS.ark.API.INFO", "$JS.hub.API.STREAM.LIST", "$JSC.R.x", "$JS.API", "$JS.SNAPSHOT.ACK.x.y", "$JS.EVENT.ADVISORY.x", system, system, system,
	})
}

// reply is a subject where an answer would do harm.
func (h *hostility) reply(r *rand.Rand) string {
	switch r.IntN(3) {
	case 0:
		return h.apiSubject(r)
	case 1:
		// The server gives every other reply another name on the way into ark's account.
		consumer := pick(r, []string{"default__writer2", "default__write", "other__writer", "default-writer__writer", "default__writer_2etwo", "default__asleep"})
		return fmt.Sprintf("$JS.ACK.ARK_TASKS.%s.1.%d.%d.1700000000000000000.0", consumer, r.IntN(40), r.IntN(4))
	}
	return h.foreignSubject(r)
}

// headers make JetStream, or the server, do more than store a message.
func (h *hostility) headers(r *rand.Rand) nats.Header {
	if r.IntN(3) == 0 {
		return nil
	}
	tk := pick(r, h.foreign)
	result := "ark.result." + queue.Token(tk.Namespace) + "." + queue.Token(tk.Agent) + "." + queue.Token(tk.Run.UID) + "." + queue.Token(tk.ID)
	all := []nats.Header{
		{"Nats-Msg-Id": {result}},
		{"Nats-Msg-Id": {tk.ID}},
		{"Nats-Rollup": {"all"}},
		{"Nats-Rollup": {"sub"}},
		{"Nats-Expected-Last-Subject-Sequence": {"1"}, "Nats-Expected-Last-Subject-Sequence-Subject": {result}},
		{"Nats-Expected-Last-Sequence": {"1"}},
		{"Nats-Expected-Stream": {"ARK_LEDGER"}},
		{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}},
		{"Nats-Schedule": {"@at 2000-01-01T00:00:00Z"}, "Nats-Schedule-Target": {result}},
		{"Nats-TTL": {"1s"}},
		{"Nats-Incr": {"1"}},
		{"KV-Operation": {"PURGE"}},
		{"Nats-Trace-Dest": {result}},
		{"Nats-Trace-Dest": {"$JS.API.STREAM.PURGE.ARK_RESULTS"}, "Nats-Trace-Only": {"true"}},
		{"Accept-Encoding": {"snappy"}},
		{"Nats-Request-Info": {`{"acc":"` + task.ID(task.KindStep, "x", "y", 0, 0, 0) + `","rtt":1}`}},
		{"Nats-Stream-Source": {"ARK_TASKS 1"}},
		{"Status": {"409"}},
		{"Status": {"100"}, "Nats-Consumer-Stalled": {result}},
		{"Nats-Pin-Id": {"x"}},
		{"Ark-Run": {tk.Run.UID}},
		{"traceparent": {"junk"}},
		{"Nats-Required-Api-Level": {"0"}},
	}
	return pick(r, all)
}

func (h *hostility) body(r *rand.Rand) []byte {
	tk := pick(r, h.foreign)
	return []byte(pick(r, []string{
		"", "{}", "+ACK", encode(h.t, tk), encode(h.t, newResult(tk, "forged")), `{"batch":100,"expires":1000000000}`, `{"seq":1}`, `{"last_by_subj":"ark.result.>"}`,
		`{"multi_last":["ark.>"],"batch":1000}`, `{"filter":">"}`, `{"subjects_filter":">"}`, `{"name":"MINE","subjects":["ark.cancel.>"],"storage":"memory"}`,
		`{"stream_name":"ARK_TASKS","config":{"durable_name":"mine","ack_policy":"none","filter_subject":"ark.task.>"}}`,
		`{"stream_name":"ARK_TASKS","config":{"deliver_subject":"ark.cancel.default.writer.x","ack_policy":"none"}}`,
		`{"name":"ARK_TASKS","subjects":["ark.task.>"],"retention":"workqueue","republish":{"src":">","dest":"ark.cancel.default.writer.x"}}`,
		strings.Repeat("x", 1000),
	}))
}
