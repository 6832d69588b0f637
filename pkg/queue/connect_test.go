package queue_test

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

// A connection is there before its server: it is made when the server is, and the streams when somebody makes them.
func TestConnectWaitsForTheServer(t *testing.T) {
	t.Parallel()
	port := 0
	for port == 0 { // none that the system gives to others: it must still be free when the server comes
		try := 15000 + rand.N(5000)
		if l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(try)); err == nil {
			require.NoError(t, l.Close())
			port = try
		}
	}
	nc, err := queue.Connect(queue.Address{URL: "nats://127.0.0.1:" + strconv.Itoa(port)}, "agent", quiet())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	_, err = queue.Attach(t.Context(), nc, "default", "writer", queue.Config{Logger: quiet(), Timeout: time.Second})
	require.ErrorIs(t, err, queue.ErrUnavailable)
	require.ErrorContains(t, err, "there is no connection to nats://127.0.0.1:"+strconv.Itoa(port)+": does a NATS server listen there")

	connected := nc.StatusChanged(nats.CONNECTED)
	server, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
	})
	require.NoError(t, err)
	go server.Start()
	t.Cleanup(func() { server.Shutdown(); server.WaitForShutdown() })
	<-connected
	_, err = queue.Attach(t.Context(), nc, "default", "writer", queue.Config{Logger: quiet()})
	require.ErrorIs(t, err, queue.ErrUnavailable)
	require.ErrorContains(t, err, "is ark's operator running with this NATS server?")

	whole, err := queue.Open(t.Context(), nc, queue.Config{Logger: quiet()})
	require.NoError(t, err)
	stop, err := whole.ServeAgents(t.Context())
	require.NoError(t, err)
	t.Cleanup(stop)
	q, err := queue.Attach(t.Context(), nc, "default", "writer", queue.Config{Logger: quiet()})
	require.NoError(t, err)
	tk := newTask(1)
	require.ErrorIs(t, q.Submit(t.Context(), tk), queue.ErrAgent)
	require.NoError(t, whole.Submit(t.Context(), tk))
	tasks := takeTasks(t, q, queue.TasksConfig{})
	require.Equal(t, tk, next(t, tasks).Task)
}

func TestConnectRefusesWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	_, err := queue.Connect(queue.Address{URL: "nats://127.0.0.1:not-a-port"}, "agent", quiet())
	require.Error(t, err)
}

// While they are paused, tasks go to another process, also those that were on their way; what was returned is kept.
func TestPauseHandsBackWhatNobodyTook(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	first := takeTasks(t, q, queue.TasksConfig{Slots: 3})
	for n := range 3 {
		require.NoError(t, q.Submit(t.Context(), newTask(n)))
	}
	kept := next(t, first)
	first.Pause()
	second := takeTasks(t, q, queue.TasksConfig{Slots: 3})
	got := map[string]bool{kept.Task.ID: true}
	for range 2 {
		d := next(t, second)
		got[d.Task.ID] = true
		require.NoError(t, d.Ack(t.Context()))
	}
	require.Len(t, got, 3)

	second.Pause()
	require.NoError(t, q.Submit(t.Context(), newTask(3)))
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := first.Next(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	first.Resume()
	require.Equal(t, newTask(3).ID, next(t, first).Task.ID)
	require.NoError(t, kept.Ack(t.Context()))

	later := takeTasks(t, q, queue.TasksConfig{Slots: 1, Paused: true})
	first.Pause()
	require.NoError(t, q.Submit(t.Context(), newTask(4)))
	later.Resume()
	require.Equal(t, newTask(4).ID, next(t, later).Task.ID)
}
