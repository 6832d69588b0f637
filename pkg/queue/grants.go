package queue

import (
	"time"

	"arkonis.dev/ark/pkg/queue/identity"
)

const (
	pullSubject = "$JS.API.CONSUMER.MSG.NEXT." + StreamTasks + "."
	ackSubject  = "$JS.ACK." + StreamTasks + "."
)

// What one agent can take up: pods by the hundred, each with a few subscriptions.
const (
	agentConnections   = 1024
	agentSubscriptions = 64 * agentConnections
	// connectionSubscriptions bounds one connection. ark's own has one for each watcher of a run at most.
	connectionSubscriptions = 1 << 16
	// connectionPending is how many bytes may wait for a client that does not read before it is cut off.
	connectionPending = 64 << 20
)

// accountsConfig says what agents are given. How long an answer is waited for is a little longer than whoever answers
// takes at most; a pull lives from heartbeat to heartbeat.
func accountsConfig(maxPayload int32, key []byte) identity.Config {
	return identity.Config{
		Services: []identity.Service{
			{Subject: pullSubject + "*", Streamed: true, Patience: pullExpiry},
			{Subject: ackSubject + "*.*.*.*.*.*", Patience: 10 * time.Second},
			{Subject: "ark.desk.>", Patience: 30 * time.Second},
			{Subject: "ark.work.>", Patience: 30 * time.Second},
			{Subject: "ark.chunk.*.*.*.*", Patience: time.Second},
			{Subject: "ark.progress.*.*.*.*", Patience: time.Second},
		},
		Streams: []string{"ark.cancel.*.*.*"},
		Grants:  func(a identity.Agent) identity.Grants { return grants(a, key) },
		Limits: identity.Limits{
			Connections: agentConnections, Subscriptions: agentSubscriptions, Payload: int64(maxPayload),
		},
	}
}

// grants are an agent's own part of that: to pull and acknowledge its tasks, the desk and the work service under its
// own name, what it tells those who look on, and cancel hints.
func grants(a identity.Agent, key []byte) identity.Grants {
	own := Token(a.Namespace) + "." + Token(a.Name)
	consumer := consumerName(key, a.Namespace, a.Name)
	return identity.Grants{
		Send: []string{
			pullSubject + consumer,
			ackSubject + consumer + ".*.*.*.*.*",
			"ark.desk." + own + ".>",
			"ark.work." + own + ".>",
			"ark.chunk." + own + ".*.*",
			"ark.progress." + own + ".*.*",
		},
		Listen: []string{"ark.cancel." + own + ".*"},
	}
}
