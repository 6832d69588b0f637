package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

var errTaskEnded = errors.New("cancelled")

// pod plays the tasks of a pod that has some places. Of a place it knows what a task and the queue get to hear of it.
type pod struct {
	t     *testing.T
	slots *slots
	tasks map[string]*podTask
}

type podTask struct {
	place     *place
	ctx       context.Context //nolint:containedctx // the task's own
	cancel    context.CancelCauseFunc
	yielded   bool
	returning int // calls that wait for the place
	waits     chan struct{}
	err       error
	gone      bool
}

// play makes one step of a script and says how the task stands then.
func (p *pod) play(verb, name string) string {
	task := p.tasks[name]
	if task == nil && verb != "take" {
		return "none"
	}
	switch verb {
	case "take": // a new task, if there is a place
		if !p.slots.try() {
			return "none"
		}
		task = &podTask{}
		task.ctx, task.cancel = context.WithCancelCause(p.t.Context())
		p.t.Cleanup(func() { task.cancel(nil) })
		task.place = newPlace(p.slots, func() { task.yielded = true }, func() { task.yielded = false })
		p.tasks[name] = task
	case "stall": // its reservation still waits for others
		if task.place.stall() {
			return "handed back"
		}
	case "unstall": // it does not any more
		task.returning++
		go func() {
			task.err = task.place.unstall(task.ctx)
			task.returning--
		}()
	case "begin": // a tool call
		task.place.begin(1)
	case "wait": // a tool call waits for somebody else
		task.waits = make(chan struct{})
		go func() {
			task.err = task.place.wait(task.ctx, func(context.Context) error { <-task.waits; task.returning++; return nil })
			task.returning--
		}()
	case "back": // it need not any more
		close(task.waits)
	case "done": // a tool call
		task.place.end()
	case "cancel":
		task.cancel(errTaskEnded)
	case "end":
		task.place.close()
		task.gone = true
	case "look":
	default:
		require.Fail(p.t, "unknown verb "+verb)
	}
	synctest.Wait()
	return task.state()
}

func (t *podTask) state() string {
	switch {
	case t.gone:
		return "gone"
	case t.err != nil:
		return t.err.Error()
	case t.returning > 0:
		return "waits"
	case t.yielded:
		return "lent"
	default:
		return "held"
	}
}

// Tasks that wait for tokens which others have reserved. A script's lines are what happens to a task, and how it stands then: it
// holds its place, has lent it, waits for one, or is told to go back to the queue.
func TestTasksThatWaitForTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		places int
		script string
	}{
		{"one place", 1, `
			take a: held
			stall a: lent
			stall a: lent
			take b: held
			take c: none
			stall b: handed back
			unstall b: held
			end b: gone
			take c: held
			unstall a: waits
			stall c: handed back
			unstall c: held
			end c: gone
			look a: held
			take d: none
			end a: gone
			take d: held
			stall d: lent`},
		{"one that does not wait will end", 2, `
			take a: held
			take b: held
			stall a: held
			stall a: held
			unstall a: held
			stall b: held
			stall a: lent`},
		{"a free place is enough", 2, `
			take a: held
			stall a: held
			take b: held
			stall a: held
			stall b: lent`},
		{"who came last gives way, the others keep their turn", 2, `
			take a: held
			take b: held
			stall a: held
			stall b: lent
			take c: held
			stall c: handed back
			stall a: held
			unstall c: held
			end c: gone
			stall a: held
			take d: held
			stall a: held
			stall d: handed back`},
		{"those that were begun return in their order, before new ones", 2, `
			take a: held
			take b: held
			begin a: held
			wait a: lent
			take c: held
			stall b: held
			stall c: lent
			take d: held
			unstall c: waits
			back a: waits
			take e: none
			unstall b: held
			end b: gone
			look c: held
			look a: waits
			take e: none
			end d: gone
			look a: held
			take e: none`},
		{"while one returns to a place that was taken meanwhile, nobody else lends", 1, `
			take a: held
			stall a: lent
			take b: held
			unstall a: waits
			stall b: handed back
			stall b: handed back
			unstall b: held
			end b: gone
			look a: held`},
		{"cancelled while the place is lent", 1, `
			take a: held
			stall a: lent
			take b: held
			cancel a: lent
			unstall a: cancelled
			end a: gone
			take c: none
			stall b: lent
			take c: held`},
		{"cancelled while it returns", 1, `
			take a: held
			stall a: lent
			take b: held
			unstall a: waits
			cancel a: cancelled
			end a: gone
			end b: gone
			take c: held
			stall c: lent`},
		{"a tool call waits for tokens while another one runs", 1, `
			take a: held
			begin a: held
			begin a: held
			stall a: held
			done a: held
			stall a: lent
			take b: held
			end b: gone
			unstall a: held
			done a: held`},
		{"a tool call waits for tokens while another one waits for a delegate", 1, `
			take a: held
			begin a: held
			begin a: held
			wait a: held
			stall a: lent
			back a: held
			done a: held
			stall a: lent
			take b: held
			stall b: handed back`},
		{"after its end a task lends nothing", 1, `
			take a: held
			end a: gone
			stall a: gone
			unstall a: gone
			take b: held
			stall b: lent`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &pod{t: t, slots: newSlots(c.places), tasks: map[string]*podTask{}}
				var played []string
				for line := range strings.Lines(strings.TrimSpace(c.script)) {
					step, _, _ := strings.Cut(strings.TrimSpace(line), ": ")
					verb, name, _ := strings.Cut(step, " ")
					played = append(played, fmt.Sprintf("\t\t\t%s: %s", step, p.play(verb, name)))
				}
				require.Equal(t, strings.Trim(c.script, "\n"), strings.Join(played, "\n"))
			})
		})
	}
}
