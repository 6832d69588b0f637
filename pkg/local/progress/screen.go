package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// frameInterval is how often a live view is drawn while nothing happens, so that times go on.
const frameInterval = 100 * time.Millisecond

// Terminal is the terminal that a live view is drawn on.
type Terminal struct {
	// Size returns the terminal's columns and lines; it is asked before each drawing. Nil, or 0, means 80 by 24.
	Size  func() (columns, lines int)
	Color bool
}

func (t Terminal) size() (columns, lines int) {
	if t.Size != nil {
		columns, lines = t.Size()
	}
	if columns <= 0 {
		columns = 80
	}
	if lines <= 0 {
		lines = 24
	}
	return columns, lines
}

// Screen shows a run as one line per step, redrawn in place. It is safe for concurrent use. Whoever makes one calls
// Finish.
type Screen struct {
	terminal Terminal
	stop     chan struct{}
	stopped  chan struct{}

	mu    sync.Mutex
	w     io.Writer
	scene scene
	drawn int // lines of the last frame
}

// NewScreen makes a view on a terminal, whose Size may be asked at any time.
func NewScreen(w io.Writer, t Terminal) *Screen {
	v := &Screen{w: w, terminal: t, stop: make(chan struct{}), stopped: make(chan struct{})}
	go v.redraw()
	return v
}

func (v *Screen) redraw() {
	defer close(v.stopped)
	ticker := time.NewTicker(frameInterval)
	defer ticker.Stop()
	for {
		select {
		case <-v.stop:
			return
		case now := <-ticker.C:
			v.mu.Lock()
			v.draw(now)
			v.mu.Unlock()
		}
	}
}

// show takes the newest scene; it is drawn with the next frame.
func (v *Screen) show(s scene) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.scene = s
}

// chunk does nothing: a live view has no room for texts.
func (v *Screen) chunk(string, string) {}

// Write puts whole lines of a log above the view.
func (v *Screen) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.erase()
	n, err := v.w.Write(p)
	v.draw(time.Now())
	return n, err
}

// Finish draws the last frame, which stays, and writes the line that ends a run.
func (v *Screen) Finish(summary string) {
	close(v.stop)
	<-v.stopped
	v.mu.Lock()
	defer v.mu.Unlock()
	v.terminal.Size = v.tall(v.terminal)
	v.draw(time.Now())
	if summary != "" {
		_, _ = io.WriteString(v.w, summary+"\n")
	}
}

// tall is the terminal without an end: the last frame may scroll.
func (v *Screen) tall(t Terminal) func() (int, int) {
	columns, _ := t.size()
	return func() (int, int) { return columns, 1 << 20 }
}

func (v *Screen) draw(now time.Time) {
	columns, lines := v.terminal.size()
	frame := frame(v.scene.rows(), now, columns, lines-1, v.terminal.Color)
	var b strings.Builder
	b.WriteString("\x1b[?7l") // no line may wrap: the count of lines would be wrong
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	for _, line := range frame {
		b.WriteString("\r\x1b[K" + line + "\n")
	}
	b.WriteString("\x1b[J\x1b[?7h")
	v.drawn = len(frame)
	_, _ = io.WriteString(v.w, b.String()) // progress that nobody can see ends no run
}

func (v *Screen) erase() {
	if v.drawn > 0 {
		_, _ = fmt.Fprintf(v.w, "\x1b[%dA\r\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// frame renders rows for a terminal of the given size: at most lines lines of at most columns characters.
func frame(rows []row, now time.Time, columns, lines int, color bool) []string {
	rows, hidden := fit(rows, max(1, lines))
	names, agents := 0, 0
	for _, r := range rows {
		names = max(names, 2*r.depth+len([]rune(r.name)))
		agents = max(agents, len([]rune(r.agent)))
	}
	names, agents = min(names, columns/3), min(agents, columns/4)
	var out []string
	if hidden > 0 {
		out = append(out, cut(fmt.Sprintf("  … %d more steps", hidden), columns))
	}
	for _, r := range rows {
		text := fmt.Sprintf(" %s %s  %s  %-10s", mark(r, now), pad(strings.Repeat("  ", r.depth)+r.name, names), pad(r.agent, agents), r.phase)
		if r.tokens > 0 {
			text += fmt.Sprintf("  %d tokens", r.tokens)
		}
		if !r.start.IsZero() {
			text += "  " + Seconds(r.elapsed(now))
		}
		text = strings.TrimRight(text+suffix("  ", r.detail), " ")
		out = append(out, paint(cut(text, columns), r.phase, color))
	}
	return out
}

// fit leaves out finished steps, oldest first, and then the last ones, until the rest fits.
func fit(rows []row, lines int) (shown []row, hidden int) {
	if len(rows) <= lines {
		return rows, 0
	}
	hidden = len(rows) - lines + 1
	drop := hidden
	for _, r := range rows {
		if drop > 0 && r.phase.Terminal() && r.phase != v1alpha1.StepFailed {
			drop--
			continue
		}
		shown = append(shown, r)
	}
	return shown[:len(rows)-hidden], hidden
}

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

func mark(r row, now time.Time) string {
	switch r.phase {
	case v1alpha1.StepSucceeded:
		return "✓"
	case v1alpha1.StepFailed:
		return "✗"
	case v1alpha1.StepSkipped:
		return "-"
	case v1alpha1.StepCancelled:
		return "■"
	case v1alpha1.StepWaiting:
		return "…"
	case v1alpha1.StepRunning, v1alpha1.StepValidating:
		return string(spinner[int(now.UnixMilli()/frameInterval.Milliseconds())%len(spinner)])
	default:
		return "·"
	}
}

// paint colours a line by its phase.
func paint(line string, phase v1alpha1.StepPhase, color bool) string {
	if !color {
		return line
	}
	code := ""
	switch phase {
	case v1alpha1.StepSucceeded:
		code = "32"
	case v1alpha1.StepFailed:
		code = "31"
	case v1alpha1.StepRunning, v1alpha1.StepValidating:
		code = "36"
	case v1alpha1.StepWaiting, v1alpha1.StepCancelled:
		code = "33"
	default:
		code = "2"
	}
	return "\x1b[" + code + "m" + line + "\x1b[0m"
}

func pad(s string, width int) string {
	s = cut(s, width)
	return s + strings.Repeat(" ", width-len([]rune(s)))
}

// cut shortens a line to a number of characters.
func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	if width <= 0 {
		return ""
	}
	return string(r[:width-1]) + "…"
}
