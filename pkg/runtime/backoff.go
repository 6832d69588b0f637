package runtime

import "time"

// Backoff says how long to wait between attempts at a model call.
type Backoff struct {
	Base time.Duration // before the second attempt; doubled each time
	Max  time.Duration // longest wait, also where the server asks for more
}

// wait is the time before the next attempt after failed ones: exponential, at least half of it, the rest scattered by
// jitter in [0, 1). What the server asked for counts where it is longer, up to Max.
func (b Backoff) wait(failed int, asked time.Duration, jitter float64) time.Duration {
	d := b.Base
	for i := 1; i < failed && d < b.Max; i++ {
		d *= 2
	}
	d = min(d, b.Max)
	d = d/2 + time.Duration(float64(d/2)*jitter)
	return max(d, min(asked, b.Max))
}
