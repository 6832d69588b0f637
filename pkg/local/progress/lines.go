package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Lines shows a run as one line per transition: for pipes, files and CI. It is safe for concurrent use.
type Lines struct {
	mu     sync.Mutex
	w      io.Writer
	seen   map[string]row
	source string // the step whose streamed text ends what was written, empty at the start of a line
}

// NewLines makes a view that writes to w.
func NewLines(w io.Writer) *Lines { return &Lines{w: w, seen: map[string]row{}} }

// show writes what changed since the last scene.
func (v *Lines) show(s scene) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	for _, r := range s.rows() {
		if text := transition(v.seen[r.path], r); text != "" {
			fmt.Fprintf(&b, "%s%s\n", r.path, text)
		}
		v.seen[r.path] = r
	}
	v.write(b.String())
}

// transition says what changed between two looks at a row; the zero row is one that was not there.
func transition(old, r row) string {
	if r.phase == v1alpha1.StepPending || r.phase == "" {
		return ""
	}
	changed := r.phase != old.phase
	switch r.phase {
	case v1alpha1.StepSucceeded:
		if changed {
			text := fmt.Sprintf(": Succeeded in %s - %d tokens", Seconds(r.elapsed(time.Time{})), r.tokens)
			if r.detail != old.detail {
				text += suffix(" - ", r.detail)
			}
			return text
		}
	case v1alpha1.StepFailed, v1alpha1.StepSkipped, v1alpha1.StepCancelled:
		if changed {
			return ended(r)
		}
	case v1alpha1.StepRunning:
		return running(old, r, changed)
	default: // Validating, Waiting
		if changed || r.detail != old.detail {
			return ": " + string(r.phase) + suffix(" - ", r.detail)
		}
	}
	return ""
}

func ended(r row) string {
	text := ": " + string(r.phase)
	if !r.start.IsZero() {
		text += " in " + Seconds(r.elapsed(r.start))
	}
	return text + suffix(" - ", r.detail)
}

func running(old, r row, changed bool) string {
	switch {
	case r.attempts > 1 && r.attempts != old.attempts:
		return fmt.Sprintf(": Running, attempt %d", r.attempts)
	case r.iterations > 0 && r.iterations != old.iterations:
		return fmt.Sprintf(": Running, %d done", r.iterations)
	case changed:
		return ": Running" + suffix(" on ", r.agent) + suffix(" - ", r.detail)
	case r.detail != "" && r.detail != old.detail && (r.begun == 0 || r.begun != old.begun): // not when a call beside another one ends
		return ": " + r.detail
	default:
		return ""
	}
}

func suffix(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

// chunk writes a piece of a step's answer as it streams. Whenever the step changes, its name goes before.
func (v *Lines) chunk(step, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
	if text == "" {
		return
	}
	if v.source != step {
		v.endChunk()
		text = step + "> " + text
		v.source = step
	}
	_, _ = io.WriteString(v.w, text) // progress that nobody can read ends no run
}

// endChunk puts what follows on a line of its own.
func (v *Lines) endChunk() {
	if v.source != "" {
		v.source = ""
		_, _ = io.WriteString(v.w, "\n")
	}
}

func (v *Lines) write(text string) {
	if text == "" {
		return
	}
	v.endChunk()
	_, _ = io.WriteString(v.w, text)
}

// Write takes whole lines of a log.
func (v *Lines) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.endChunk()
	return v.w.Write(p)
}

// Finish writes the line that ends a run.
func (v *Lines) Finish(summary string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.endChunk()
	if summary != "" {
		v.write(summary + "\n")
	}
}
