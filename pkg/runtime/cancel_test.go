package runtime_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// deaf is a connection that hears nothing from its first request to append on until it gives an append up.
type deaf struct {
	net.Conn
	appended, givenUp chan struct{}
}

func (d *deaf) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	d.Conn = conn
	return d, err
}

func (d *deaf) Write(b []byte) (int, error) {
	once := func(done chan struct{}, verb string) {
		select {
		case <-done:
		default:
			if bytes.Contains(b, []byte(queue.WorkSubject(namespace, "writer", verb))) {
				close(done)
			}
		}
	}
	once(d.appended, "append")
	once(d.givenUp, "withdraw")
	return d.Conn.Write(b)
}

func (d *deaf) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	select {
	case <-d.appended:
		<-d.givenUp
	default:
	}
	return n, err
}

// A task is cancelled while its first call is being reserved, and the answer is not heard any more: the call is not made, so
// its reservation is given back, at once and not after the time that the service has for calls that are under way.
func TestReservationOfACancelledTaskIsGivenBack(t *testing.T) {
	t.Parallel()
	w, url := newReachableWorld(t, modelserver.Config{})
	tk := w.task("writer", "x")
	scope := "run." + runUID
	tk.Budgets = []task.Budget{{Scope: scope, Limit: 1_000_000}}
	reserved := make(chan struct{}, 1)
	_, err := w.nc.Subscribe("ark.ledger.log", func(m *nats.Msg) {
		if bytes.Contains(m.Data, []byte(`"intent"`)) {
			reserved <- struct{}{}
		}
	})
	require.NoError(t, err)
	line := &deaf{appended: make(chan struct{}), givenUp: make(chan struct{})}
	nc, err := nats.Connect(url, nats.SetCustomDialer(line))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	w.agent("writer", func(c *runtime.Config) { c.Work = work.NewClient(nc) })
	w.submit(tk)
	receive(t, reserved)
	require.Eventually(t, func() bool { return state(w, scope).Reserved() > 0 }, patience, time.Millisecond)

	_, err = w.queue.PublishResult(t.Context(), queue.KeyOf(tk), &task.Result{
		Version: task.Version, TaskID: tk.ID, Status: task.Cancelled, Error: task.Errorf(task.CodeCancelled, "by hand"),
	})
	require.NoError(t, err)
	require.NoError(t, w.queue.HintCancel(queue.KeyOf(tk), "by hand"))
	receive(t, line.givenUp)
	w.gone(tk)
	require.Equal(t, []int64{0, 0}, []int64{state(w, scope).Reserved(), spent(w, scope)})
	require.Empty(t, w.models.Calls())
}

// An agent that is removed ends its calls. It says nothing of the tasks: whoever removed it does.
func TestRemovedAgentEndsItsCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{Fault: modelserver.FaultHang})})
	w.agent("writer", func(c *runtime.Config) { c.Limits.MaxConcurrentTasks = 2 })
	first, second := w.task("writer", "x"), w.task("writer", "y")
	w.submit(first, second)
	_, err := w.models.WaitIn(t.Context(), 2)
	require.NoError(t, err)
	require.NoError(t, w.queue.HintRemoved(namespace, "writer", "by hand"))
	_, err = w.models.Wait(t.Context(), 2)
	require.NoError(t, err)
	n, err := w.queue.RemoveAgent(t.Context(), namespace, "writer", task.Errorf(task.CodeAgentRemoved, "gone"))
	require.NoError(t, err)
	require.Equal(t, 2, n, "none has a result")
	for _, tk := range []*task.Task{first, second} {
		require.Equal(t, task.CodeAgentRemoved, w.result(tk.ID).Error.Code)
	}
}
