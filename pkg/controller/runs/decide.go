package runs

import (
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// facts is what a reconcile begins with: the run as the cache has it, and the drive of its key.
type facts struct {
	run   *v1alpha1.ArkRun // nil: there is none
	drive string           // uid of the drive's run, empty for no drive
}

// course is what becomes of a key.
type course struct {
	// forget is the uid of a run that is gone: its drive is given up, its children are removed, the stores are purged.
	forget string
	// settle has the end of a run told to the run above it; drive has the run driven.
	settle, drive bool
}

// decide says what becomes of a key. A run that is being removed counts as gone: nothing is paid for it any more.
func decide(f facts) course {
	var c course
	if f.drive != "" && (f.run == nil || string(f.run.UID) != f.drive) {
		c.forget = f.drive
	}
	switch {
	case f.run == nil:
	case f.run.DeletionTimestamp != nil:
		c.forget = string(f.run.UID)
	case f.run.Status.Phase.Terminal():
		c.settle = true
	default:
		c.drive = true
	}
	return c
}

// Times of status writes. With the end, which is written at once, a run costs at most four writes and one for each second
// of its life.
const (
	// statusEvery is the least time between two writes of a running run's status.
	statusEvery = time.Second
	// firstStatus is when the first one of a run alone is written: short runs are over by then. Of what more the pace asks
	// for, it waits for one part of firstShare.
	firstStatus = 100 * time.Millisecond
	firstShare  = 2
	// statusesPerSecond is how many such writes all live runs share, and lastStatus the most that one waits for its turn.
	statusesPerSecond = 10
	lastStatus        = time.Minute
)

// pace is the time between two status writes of a run when so many are live. Many runs at once tell of their steps less
// often, so that the API server is free for their beginnings and ends: those that are over within their pace never do.
func pace(live int) time.Duration {
	return min(max(statusEvery, time.Duration(live)*time.Second/statusesPerSecond), lastStatus)
}

// statusDue is when the status may be written next, the zero time when there is nothing new to tell.
func statusDue(changed bool, opened, written time.Time, pace time.Duration) time.Time {
	switch {
	case !changed:
		return time.Time{}
	case written.IsZero():
		return opened.Add(firstStatus + (pace-statusEvery)/firstShare)
	default:
		return written.Add(pace)
	}
}

// agentGrace is how long an agent may be missing before the tasks that wait for it fail: an agent that is replaced, or
// that its team makes anew, is back sooner.
const agentGrace = 10 * time.Second

// earliest is the first of some times; zero ones do not count.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// hasSnapshot says whether a run can be compiled as it is: it is one of an agent, or holds what its team was.
func hasSnapshot(s *v1alpha1.ArkRunSpec) bool {
	return s.AgentRef != nil || len(s.Roles) > 0 || len(s.Pipeline) > 0 || s.Entry != "" || s.Routing != nil
}

// startOf is when a run began, the zero time when nobody has committed it yet.
func startOf(run *v1alpha1.ArkRun) time.Time {
	switch t := run.Spec.Trigger; {
	case run.Status.StartTime != nil:
		return run.Status.StartTime.Time
	case t != nil && t.FiredAt != nil:
		return t.FiredAt.Time
	default:
		return time.Time{}
	}
}
