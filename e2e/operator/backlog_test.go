package operator

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// roomy is what a NATS server may store, in bytes: by default it is a part of what is free on the disk.
const roomy = 1 << 40

// open gives the world a NATS server of its own, which lets everybody in, and opens the queue on it.
func (w *world) open() *queue.Queue {
	w.t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, JetStreamMaxStore: roomy, StoreDir: w.store, NoLog: true, NoSigs: true,
	})
	require.NoError(w.t, err)
	go s.Start()
	require.True(w.t, s.ReadyForConnections(patience))
	w.external = s.ClientURL()
	nc, err := nats.Connect(w.external, nats.Timeout(patience))
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	})
	q, err := queue.Open(w.t.Context(), nc, queue.Config{Storage: jetstream.FileStorage})
	require.NoError(w.t, err)
	return q
}

func (w *world) task(agent, id string) *task.Task {
	return &task.Task{
		Version: task.Version, ID: id, Namespace: w.namespace, Agent: agent, Run: task.Run{UID: "run-1", Name: "run"},
		Step: "s", Role: "writer", Kind: task.KindStep, Prompt: task.Text{Inline: "Do it."}, Created: time.Now(), Deadline: time.Now().Add(time.Hour), TimeoutSeconds: 120,
	}
}

// submit queues tasks with numbers.
func (w *world) submit(q *queue.Queue, agent string, from, to int) {
	w.t.Helper()
	for n := from; n <= to; n++ {
		require.NoError(w.t, q.Submit(w.t.Context(), w.task(agent, fmt.Sprintf("t-%d", n))))
	}
}

func pods(n int32) func(*appsv1.Deployment) bool {
	return func(d *appsv1.Deployment) bool { return d.Spec.Replicas != nil && *d.Spec.Replicas == n }
}

// The number of tasks sets that of the pods, from none to the most and back to none; no task is lost.
func TestTheQueueScalesFromAndToZero(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := w.open()
	w.start()
	w.apply(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec: {model: mock, autoscaling: {minReplicas: 0, maxReplicas: 3, targetPendingTasks: 5, scaleDownAfterSeconds: 1}}
`)
	w.deployment("writer-agent", "no pod", pods(0))
	require.Equal(t, metav1.ConditionTrue, w.condition("writer", "Ready", v1alpha1.ReasonScaledToZero).Status)
	w.submit(q, "writer", 1, 1)
	w.deployment("writer-agent", "one pod", pods(1))
	w.submit(q, "writer", 2, 40)
	w.deployment("writer-agent", "three pods", pods(3))
	until(w, w.clients.Agents(w.namespace), "writer", "waiting tasks in its status", func(a *v1alpha1.ArkAgent) bool {
		return a.Status.PendingTasks == 40 && a.Status.DesiredReplicas == 3
	})

	tasks, err := q.Tasks(t.Context(), w.namespace, "writer", queue.TasksConfig{Slots: 40})
	require.NoError(t, err)
	var held []*queue.Delivery
	for range 40 {
		d, err := tasks.Next(t.Context())
		require.NoError(t, err)
		held = append(held, d)
	}
	finish := func(d *queue.Delivery) {
		_, err := q.PublishResult(t.Context(), d.Key(), &task.Result{
			Version: task.Version, TaskID: d.Task.ID, Status: task.Succeeded, Output: task.Text{Inline: "Done."}, Completed: time.Now(),
		})
		require.NoError(t, err)
		require.NoError(t, d.Ack(t.Context()))
	}
	for _, d := range held[1:] {
		finish(d)
	}
	w.deployment("writer-agent", "one pod while a task is held", pods(1))
	finish(held[0])
	w.deployment("writer-agent", "no pod", pods(0))
	until(w, w.clients.Agents(w.namespace), "writer", "an empty queue in its status", func(a *v1alpha1.ArkAgent) bool {
		return a.Status.PendingTasks == 0 && a.Status.DesiredReplicas == 0
	})
}

// The tasks of an agent that is removed fail with a reason, also when no operator ran then; a new agent of that name
// begins with an empty queue.
func TestTasksOfARemovedAgentFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := w.open()
	o := w.start()
	agents := w.clients.Agents(w.namespace)
	for i, while := range []string{"running", "down"} {
		w.apply(writer)
		w.deployment("writer-agent", "the Deployment", exists)
		w.submit(q, "writer", 10*i, 10*i+2)
		if while == "down" {
			o.kill()
		}
		require.NoError(t, agents.Delete(t.Context(), "writer", metav1.DeleteOptions{}))
		if while == "down" {
			o = w.start()
		}
		for n := 10 * i; n <= 10*i+2; n++ {
			key := queue.KeyOf(w.task("writer", fmt.Sprintf("t-%d", n)))
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				r, err := q.Result(t.Context(), key)
				require.NoError(c, err)
				require.Equal(c, task.CodeAgentRemoved, r.Error.Code)
				require.Contains(c, r.Error.Message, "the ArkAgent writer does not exist any more")
				_, err = q.Task(t.Context(), w.namespace, "writer", key.TaskID)
				require.ErrorIs(c, err, queue.ErrNoTask)
			}, patience, 100*time.Millisecond)
		}
	}
	w.apply(writer)
	w.deployment("writer-agent", "the Deployment", exists)
	w.submit(q, "writer", 30, 30)
	b, err := q.Backlog(t.Context(), w.namespace, "writer")
	require.NoError(t, err)
	require.Equal(t, queue.Backlog{Waiting: 1}, b)
}

// runtime is an agent's process, as it runs in its pods.
func (w *world) runtime(agent string, env ...string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), shared.ark, "runtime", "--listen", "")
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "AGENT_NAME=" + agent, "AGENT_NAMESPACE=" + w.namespace, "POD_NAME=p", "MODEL=mock", "NATS_URL=" + w.external,
	}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &logs{}
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("runtime:\n%s", out)
		}
	})
}

// An agent whose daily budget is used up has no pods until the window frees; a greater budget brings them back.
func TestAUsedUpBudgetScalesToZero(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := w.open()
	w.start()
	agent := func(limit int) string {
		return fmt.Sprintf(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec: {model: mock, replicas: 2, limits: {maxTokensPerCall: 100, maxDailyTokens: %d}}
`, limit)
	}
	w.apply(agent(1500))
	w.deployment("writer-agent", "two pods", pods(2))
	w.condition("writer", "BudgetExceeded", v1alpha1.ReasonWithinLimit)
	w.runtime("writer", "MAX_TOKENS_PER_CALL=100")
	w.submit(q, "writer", 1, 40)
	w.deployment("writer-agent", "no pod", pods(0))
	require.Contains(t, w.condition("writer", "BudgetExceeded", v1alpha1.ReasonDailyLimitReached).Message, "of 1500 tokens")
	w.condition("writer", "Ready", v1alpha1.ReasonScaledToZero)
	u := until(w, w.clients.Agents(w.namespace), "writer", "its use in its status", func(a *v1alpha1.ArkAgent) bool {
		return a.Status.DailyTokenUsage != nil && a.Status.DailyTokenUsage.ResetsAt != nil
	}).Status.DailyTokenUsage
	require.Equal(t, int64(1500), u.Limit)
	require.LessOrEqual(t, u.TotalTokens, u.Limit)
	require.WithinRange(t, u.ResetsAt.Time, time.Now().Add(23*time.Hour), time.Now().Add(25*time.Hour))
	w.apply(agent(1_000_000))
	w.deployment("writer-agent", "two pods", pods(2))
	w.condition("writer", "BudgetExceeded", v1alpha1.ReasonWithinLimit)
}
