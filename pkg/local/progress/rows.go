package progress

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// scene is what a view of a run is drawn from: the runs that belong together and what their tasks say of themselves.
type scene struct {
	runs  []sceneRun        // the run that was asked for first, then its child runs
	tools map[string]string // task id -> the tool that is being called
	begun map[string]int    // task id -> how many calls it has begun, of tasks that are calling one
}

// sceneRun is one run. A child run stands below the step whose task it is.
type sceneRun struct {
	task   string // of the step in the parent run, empty for the first run
	status v1alpha1.ArkRunStatus
}

// row is one line of a view.
type row struct {
	path       string // names the row among all: "review", "review/analyst-1"
	name       string
	depth      int
	agent      string
	phase      v1alpha1.StepPhase
	attempts   int32
	iterations int32
	begun      int    // tool calls so far, while it calls one
	detail     string // the tool being called, what is waited for, what was noted or what went wrong
	tokens     int64
	start, end time.Time // zero when not yet
}

// rows lists the steps of a scene, delegated work and child runs below their parents.
func (s scene) rows() []row {
	if len(s.runs) == 0 {
		return nil
	}
	return s.runRows(nil, s.runs[0].status.Steps, "", 0)
}

func (s scene) runRows(out []row, steps []v1alpha1.StepStatus, path string, depth int) []row {
	for _, b := range Tree(steps) {
		r := s.row(b.Step)
		r.name = strings.TrimPrefix(b.Step.Name, b.Step.Parent+"/")
		r.path, r.depth = path+b.Step.Name, depth+b.Depth
		out = append(out, r)
		for _, child := range s.runs[1:] {
			if child.task != "" && child.task == b.Step.TaskID {
				out = s.runRows(out, child.status.Steps, path+b.Step.Name+"/", depth+b.Depth+1)
			}
		}
	}
	return out
}

func (s scene) row(step *v1alpha1.StepStatus) row {
	r := row{
		agent: step.Agent, phase: step.Phase, attempts: step.Attempts, iterations: step.Iterations,
		begun: s.begun[step.TaskID], tokens: total(step.TokenUsage), start: at(step.StartTime), end: at(step.CompletionTime),
	}
	switch step.Phase {
	case v1alpha1.StepRunning:
		if tool := s.tools[step.TaskID]; tool != "" {
			r.detail = "calls " + tool
		}
	case v1alpha1.StepWaiting, v1alpha1.StepSucceeded: // what it waits for, or what was noted on the way
		r.detail = step.Message
	case v1alpha1.StepFailed:
		r.detail = Reason(step.Reason, step.Message)
	default:
	}
	if step.SelectedCapability != "" && r.detail == "" {
		r.detail = "routed to " + step.SelectedCapability
	}
	r.detail = Plain(r.detail)
	return r
}

// elapsed is the time that a step has taken so far.
func (r row) elapsed(now time.Time) time.Duration {
	switch {
	case r.start.IsZero():
		return 0
	case r.end.IsZero():
		return max(0, now.Sub(r.start))
	default:
		return max(0, r.end.Sub(r.start))
	}
}

func at(t *metav1.MicroTime) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

func total(u *v1alpha1.TokenUsage) int64 {
	if u == nil {
		return 0
	}
	return u.TotalTokens
}

// Reason puts a code before its sentence, unless the sentence begins with it.
func Reason(code, sentence string) string {
	switch {
	case code == "" || strings.HasPrefix(sentence, code):
		return sentence
	case sentence == "":
		return code
	default:
		return code + ": " + sentence
	}
}

// Seconds is a duration for people: 0.2s, 6.3s, 2m3s.
func Seconds(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d < 100*time.Millisecond && d > 0:
		return fmt.Sprintf("%dms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
}

// Plain makes one line of a text that others wrote, without anything that a terminal would obey.
func Plain(s string) string {
	clean := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(clean), " ")
}

// Branch is a step in the tree of a run: delegated work stands below who handed it over.
type Branch struct {
	Step  *v1alpha1.StepStatus
	Depth int
}

// Tree orders the steps of a run as views show them.
func Tree(steps []v1alpha1.StepStatus) []Branch {
	known := make(map[string]bool, len(steps))
	below := map[string][]int{}
	for i := range steps {
		known[steps[i].Name] = true
	}
	var roots []int
	for i := range steps {
		if p := steps[i].Parent; known[p] && p != steps[i].Name {
			below[p] = append(below[p], i)
		} else { // delegated work whose parent is not shown stands on its own
			roots = append(roots, i)
		}
	}
	out := make([]Branch, 0, len(steps))
	var add func(i, depth int)
	add = func(i, depth int) {
		out = append(out, Branch{&steps[i], depth})
		for _, child := range below[steps[i].Name] {
			add(child, depth+1)
		}
	}
	for _, i := range roots {
		add(i, 0)
	}
	return out
}
