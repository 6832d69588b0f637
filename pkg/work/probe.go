package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nuid"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// ProbeRun is what stands for the uid of a run in the journals of probes. It is the uid of no run: whoever removes
// what belongs to runs that are gone leaves it alone.
const ProbeRun = queue.ProbeRun

// Verbs of probes.
const (
	verbProbe   = "probe"
	verbVerdict = "probe-verdict"
)

const (
	// probeSlack is how long a lease outlives the time that its holder has for the model's answer.
	probeSlack = 5 * time.Second
	// probeAgain is how soon a pod asks again while another one asks the model.
	probeAgain = time.Second
	// probeTries is how often a decision is made again because another service was faster.
	probeTries = 16
	// maxVerdicts is how many setups of an agent are kept: those of old and new pods, while they are replaced.
	maxVerdicts = 8
)

// Verdict says whether the answers of an agent make sense.
type Verdict struct {
	Healthy bool `json:"healthy"`
	// Failures is how many answers in a row did not. Fewer than the threshold do not make a healthy agent unhealthy.
	Failures int       `json:"failures,omitempty"`
	Message  string    `json:"message,omitempty"` // of the last failure
	Pod      string    `json:"pod,omitempty"`     // that asked
	At       time.Time `json:"at"`                // by the service's clock; zero while nobody has asked
}

// Probe is what a pod wants to know of its agent.
type Probe struct {
	Pod string
	// Setup names what the verdict is about: the model, the question, the answer that is expected. Pods with the same
	// setup share it.
	Setup     string
	Interval  time.Duration // a verdict is good for so long
	Timeout   time.Duration // that the pod gives the model
	Threshold int           // failures in a row that make an agent unhealthy
	// Proven is when the model last gave the pod an answer to a real task, zero for never. Within the interval it stands
	// in for the probe.
	Proven time.Time
}

// ProbeTurn is the answer: what is known, and whether it is this pod's turn to ask the model.
type ProbeTurn struct {
	Verdict Verdict
	Next    time.Duration // until there is news
	// Session is set for the one pod that is to ask: its calls are reserved, journaled and settled like those of a task,
	// in the budgets of the agent. It has to Report.
	Session *Session

	client *Client
	probe  Probe
	lease  string
}

// Probe asks what is known of the answers of an agent. Of all pods that ask, one gets a Session, and no other one until
// it reports or its time is over.
func (c *Client) Probe(ctx context.Context, namespace, agent string, p Probe) (*ProbeTurn, error) {
	s := &Session{client: c, namespace: namespace, agent: agent}
	r := probeRequest{
		ID: nuid.Next(), Pod: p.Pod, Setup: p.Setup, Interval: p.Interval.Milliseconds(), Timeout: p.Timeout.Milliseconds(), Proven: -1,
	}
	if !p.Proven.IsZero() {
		r.Proven = max(time.Since(p.Proven).Milliseconds(), 0)
	}
	var reply probeReply
	if err := c.ask(ctx, s.caller(), verbProbe, r, &reply, 0); err != nil {
		return nil, fmt.Errorf("probe agent %s/%s: %w", namespace, agent, err)
	}
	turn := &ProbeTurn{Verdict: reply.Verdict, Next: time.Duration(reply.Next) * time.Millisecond, client: c, probe: p, lease: r.ID}
	if reply.Epoch > 0 {
		key := probeKey(caller{namespace, agent})
		s.task, s.takenAt, s.takeOvers = probeTask(key), reply.TakenAt, 1
		s.holder = holder{Run: key.RunUID, Task: key.TaskID, Epoch: reply.Epoch}
		turn.Session = s
	}
	return turn, nil
}

// Report tells how the model answered, and returns what is known from now on. Failed is why the answer makes no sense,
// empty when it does. When it was not asked, because no call may be made now, asked is false, and what was known stays.
func (t *ProbeTurn) Report(ctx context.Context, asked bool, failed string) (Verdict, error) {
	var reply probeReply
	r := verdictRequest{ID: t.lease, Pod: t.probe.Pod, Setup: t.probe.Setup, Threshold: t.probe.Threshold, Asked: asked, Failed: chars.Head(failed, task.PreviewLimit)}
	if err := t.client.ask(ctx, t.Session.caller(), verbVerdict, r, &reply, 0); err != nil {
		return Verdict{}, fmt.Errorf("report on agent %s/%s: %w", t.Session.namespace, t.Session.agent, err)
	}
	return reply.Verdict, nil
}

type probeRequest struct {
	ID       string `json:"id"` // of the lease, if this pod gets it
	Pod      string `json:"pod"`
	Setup    string `json:"setup"`
	Interval int64  `json:"interval"` // ms
	Timeout  int64  `json:"timeout"`  // ms
	Proven   int64  `json:"proven"`   // ms ago, below 0 for never
}

type verdictRequest struct {
	ID        string `json:"id"`
	Pod       string `json:"pod"`
	Setup     string `json:"setup"`
	Threshold int    `json:"threshold"`
	Asked     bool   `json:"asked"`
	Failed    string `json:"failed,omitempty"`
}

type probeReply struct {
	Verdict Verdict   `json:"verdict"`
	Next    int64     `json:"next"`            // ms
	Epoch   int       `json:"epoch,omitempty"` // of the journal, for the pod that is to ask
	TakenAt time.Time `json:"takenAt,omitzero"`
}

// probeKey is where the journal of an agent's probes stands. It holds the last probe only.
func probeKey(c caller) queue.Key {
	return queue.Key{Namespace: c.namespace, Agent: c.agent, RunUID: ProbeRun, TaskID: "probe"}
}

// probeTask stands for the task that a probe's calls belong to. It has no budgets of its own and no end.
func probeTask(k queue.Key) *task.Task {
	return &task.Task{Version: task.Version, ID: k.TaskID, Kind: task.KindProbe, Namespace: k.Namespace, Agent: k.Agent, Run: task.Run{UID: k.RunUID}}
}

// probes is what the bucket holds of an agent.
type probes struct {
	Version  int                `json:"v"`
	Lease    *lease             `json:"lease,omitempty"`
	Verdicts map[string]Verdict `json:"verdicts,omitempty"` // by setup
}

// lease is the right to ask the model.
type lease struct {
	ID    string    `json:"id"`
	Pod   string    `json:"pod"`
	Until time.Time `json:"until"`
}

// probe decides a request. It says whether it has changed something, and whether the pod is to ask.
func (p *probes) probe(r probeRequest, now time.Time) (reply probeReply, changed, granted bool) {
	v := p.Verdicts[r.Setup]
	interval := time.Duration(r.Interval) * time.Millisecond
	due := v.At.Add(interval)
	proven := now.Add(-time.Duration(r.Proven) * time.Millisecond)
	if r.Proven >= 0 && (!v.Healthy || !now.Before(due)) && now.Before(proven.Add(interval)) && proven.After(v.At) {
		v = Verdict{Healthy: true, Pod: r.Pod, At: proven.UTC()}
		p.put(r.Setup, v)
		due, changed = v.At.Add(interval), true
	}
	switch {
	case p.Lease != nil && p.Lease.ID == r.ID:
		granted = true
	case !v.At.IsZero() && now.Before(due) && !v.At.After(now):
		return probeReply{Verdict: v, Next: due.Sub(now).Milliseconds() + 1}, changed, false
	case p.Lease != nil && now.Before(p.Lease.Until) && p.Lease.Until.Before(now.Add(time.Hour+probeSlack+1)):
		return probeReply{Verdict: v, Next: probeAgain.Milliseconds()}, changed, false
	default:
		p.Lease = &lease{ID: r.ID, Pod: r.Pod, Until: now.Add(time.Duration(r.Timeout)*time.Millisecond + probeSlack).UTC()}
		changed, granted = true, true
	}
	return probeReply{Verdict: v, Next: interval.Milliseconds()}, changed, granted
}

// judge takes a report in. One of a pod whose time was over changes nothing.
func (p *probes) judge(r verdictRequest, now time.Time) (reply probeReply, changed bool) {
	v := p.Verdicts[r.Setup]
	if p.Lease == nil || p.Lease.ID != r.ID {
		return probeReply{Verdict: v}, false
	}
	p.Lease = nil
	if !r.Asked {
		return probeReply{Verdict: v}, true
	}
	v.At, v.Pod, v.Message = now.UTC(), r.Pod, r.Failed
	if r.Failed == "" {
		v.Healthy, v.Failures = true, 0
	} else {
		v.Failures++
		v.Healthy = v.Healthy && v.Failures < r.Threshold
	}
	p.put(r.Setup, v)
	return probeReply{Verdict: v}, true
}

// put keeps a verdict, and of the others the newest.
func (p *probes) put(setup string, v Verdict) {
	if p.Verdicts == nil {
		p.Verdicts = map[string]Verdict{}
	}
	p.Verdicts[setup] = v
	for len(p.Verdicts) > maxVerdicts {
		oldest := setup
		for other, w := range p.Verdicts {
			if w.At.Before(p.Verdicts[oldest].At) || oldest == setup {
				oldest = other
			}
		}
		delete(p.Verdicts, oldest)
	}
}

func (s *Service) probe(ctx context.Context, c caller, r probeRequest) (*probeReply, error) {
	if r.ID == "" || r.Setup == "" || len(r.Setup) > 128 || r.Interval <= 0 || r.Timeout <= 0 || r.Timeout > time.Hour.Milliseconds() {
		return nil, refusef("a probe needs an id, a setup, an interval and a time-out of up to an hour")
	}
	var reply probeReply
	var granted bool
	err := s.changeProbes(ctx, c, func(p *probes, now time.Time) (changed bool) {
		reply, changed, granted = p.probe(r, now)
		return changed
	})
	if err != nil || !granted {
		return &reply, err
	}
	a := &takingOver{id: r.ID, pod: r.Pod, task: probeTask(probeKey(c)), retries: math.MaxInt}
	if err := s.takeProbeOver(ctx, a); err != nil {
		return nil, err
	}
	reply.Epoch, reply.TakenAt = a.epoch, a.takenAt
	s.settleProbe(ctx, probeKey(c), a.epoch, time.Duration(r.Timeout)*time.Millisecond+probeSlack)
	return &reply, nil
}

// takeProbeOver begins an epoch of the journal. What an earlier holder left open is charged in full.
func (s *Service) takeProbeOver(ctx context.Context, a *takingOver) error {
	key := queue.KeyOf(a.task)
	if err := s.book.do(ctx, key, a); err != nil {
		return err
	}
	if a.record != nil {
		s.unknown(ctx, key, len(a.record.Entries))
	}
	return nil
}

// settleProbe charges what a pod that has died, or was cut off, leaves open.
func (s *Service) settleProbe(ctx context.Context, key queue.Key, epoch int, after time.Duration) {
	s.group.Go(func() {
		if !pause(ctx, after+s.cfg.SettleAfter) {
			return
		}
		a := &settling{epoch: epoch}
		if err := s.book.do(ctx, key, a); err != nil {
			s.cfg.Logger.Warn("calls of a probe stay open", "namespace", key.Namespace, "agent", key.Agent, "error", err)
			return
		}
		s.unknown(ctx, key, a.count)
	})
}

func (s *Service) verdict(ctx context.Context, c caller, r verdictRequest) (*probeReply, error) {
	if r.ID == "" || r.Setup == "" || r.Threshold < 1 {
		return nil, refusef("a report needs the id of its probe, a setup and a threshold")
	}
	var reply probeReply
	err := s.changeProbes(ctx, c, func(p *probes, now time.Time) (changed bool) {
		reply, changed = p.judge(r, now)
		return changed
	})
	return &reply, err
}

// changeProbes reads what the bucket holds of an agent, has it changed and stores it, by compare-and-swap.
func (s *Service) changeProbes(ctx context.Context, c caller, change func(p *probes, now time.Time) (changed bool)) error {
	key := queue.Token(c.namespace) + "." + queue.Token(c.agent)
	for range probeTries {
		v, err := s.probes.Get(ctx, key)
		if err != nil {
			return unavailable(err)
		}
		p := &probes{}
		// What this version cannot read is replaced: a verdict is found again by asking.
		if err := json.Unmarshal(v.Data, p); err != nil || p.Version != probeVersion {
			p = &probes{Version: probeVersion}
		}
		if !change(p, s.cfg.Now()) {
			return nil
		}
		data, err := json.Marshal(p)
		if err != nil {
			return fmt.Errorf("encode verdicts: %w", err)
		}
		err = s.probes.Put(ctx, key, data, v.Revision, probesTTL)
		if err == nil {
			return nil
		}
		if !errors.Is(err, queue.ErrStale) && !errors.Is(err, queue.ErrUnknownOutcome) {
			return unavailable(err)
		}
	}
	return fmt.Errorf("%w: other services decide on the same probes all the time", ErrUnavailable)
}

const (
	// probeVersion is the version of what is stored.
	probeVersion = 1
	// probesTTL is how long what is known of an agent outlives its last pod.
	probesTTL = 30 * 24 * time.Hour
)
