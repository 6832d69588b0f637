package work

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/queue"
)

// verbReport is how a pod says how it is.
const verbReport = "report"

const (
	// ReportEvery is how often a pod reports when nothing changes.
	ReportEvery = 10 * time.Second
	// ReportTTL is how long a report counts.
	ReportTTL = 35 * time.Second
	// maxReport bounds a report, in bytes of JSON.
	maxReport = 64 << 10
	// maxReasons, maxConnections and maxSaid bound its parts; the last is in bytes of one text.
	maxReasons     = 8
	maxConnections = 64
	maxSaid        = 256
	// maxPods bounds how many pods of an agent are remembered.
	maxPods = 256
	// maxPodName is how long the name of a pod may be, in bytes.
	maxPodName = 253
)

// Report is how a pod of an agent is. Pods report when it changes, at most once a second, and every ReportEvery. Nothing
// is stored: each service knows what it has heard within ReportTTL, so one that has just started knows everything
// ReportEvery later.
type Report struct {
	Pod string `json:"pod"`
	// Ready says that the pod takes tasks; Reasons why it does not.
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"`
	// RunningTasks are the tasks that it works on, those included that wait for work that they have handed over.
	RunningTasks int `json:"runningTasks"`
	// Verdict is that of the agent's semantic probe; nil when it has none, or before the first answer.
	Verdict         *Verdict         `json:"verdict,omitempty"`
	ToolConnections []ToolConnection `json:"toolConnections,omitempty"` // by name
	Memory          *MemoryState     `json:"memory,omitempty"`          // nil: the agent has none
	// Gone says that the pod ends: it is forgotten at once.
	Gone bool `json:"gone,omitempty"`
	// At is when it was heard, by the service's clock; the service sets it.
	At time.Time `json:"at,omitzero"`
}

// ToolConnection is the state of a tool server.
type ToolConnection struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Message string `json:"message,omitempty"` // why it is not
}

// MemoryState is the state of what an agent remembers with.
type MemoryState struct {
	Backend string `json:"backend"`
	Healthy bool   `json:"healthy"`
	Message string `json:"message,omitempty"` // why it is not
	// Operations and Failures count since the pod's start.
	Operations int64 `json:"operations,omitempty"`
	Failures   int64 `json:"failures,omitempty"`
}

// bounded is a report that fits: long texts are cut, and what is too much is left out.
func (r Report) bounded() Report {
	r.Reasons = slices.Clone(r.Reasons[:min(len(r.Reasons), maxReasons)])
	for i := range r.Reasons {
		r.Reasons[i] = chars.Head(r.Reasons[i], maxSaid)
	}
	r.ToolConnections = slices.Clone(r.ToolConnections[:min(len(r.ToolConnections), maxConnections)])
	for i := range r.ToolConnections {
		c := &r.ToolConnections[i]
		c.Name, c.Message = chars.Head(c.Name, maxSaid), chars.Head(c.Message, maxSaid)
	}
	if r.Memory != nil {
		m := *r.Memory
		m.Message = chars.Head(m.Message, maxSaid)
		r.Memory = &m
	}
	if r.Verdict != nil {
		v := *r.Verdict
		v.Message = chars.Head(v.Message, maxSaid)
		r.Verdict = &v
	}
	return r
}

// news says whether two reports of a pod differ in more than their time.
func (r Report) news(before Report) bool {
	strip := func(r Report) Report {
		r.At = time.Time{}
		if r.Verdict != nil {
			v := *r.Verdict
			v.At, v.Pod = time.Time{}, ""
			r.Verdict = &v
		}
		if r.Memory != nil {
			m := *r.Memory
			m.Operations, m.Failures = 0, 0
			r.Memory = &m
		}
		return r
	}
	return !reflect.DeepEqual(strip(r), strip(before))
}

// Differs says whether two reports differ in what is worth telling at once: in more than times and counts.
func (r Report) Differs(other Report) bool { return r.bounded().news(other.bounded()) }

// Report tells the services how a pod is. It can be repeated.
func (c *Client) Report(ctx context.Context, namespace, agent string, r Report) error {
	if err := c.ask(ctx, caller{namespace, agent}, verbReport, r.bounded(), &struct{}{}, 0); err != nil {
		return fmt.Errorf("report on pod %s of agent %s/%s: %w", r.Pod, namespace, agent, err)
	}
	return nil
}

// Reports returns what the pods of an agent reported within ReportTTL, by the names of the pods. It asks nobody.
func (s *Service) Reports(namespace, agent string) []Report {
	return s.reports.of(caller{namespace, agent}, s.cfg.Now())
}

// reportsSubject is where a service passes a report on to the others and to itself.
const reportsSubject = "ark.reports."

// report passes a report on to all services, which each remember it.
func (s *Service) report(_ context.Context, c caller, r Report) (*struct{}, error) {
	if r.Pod == "" || len(r.Pod) > maxPodName {
		return nil, refusef("a report needs the name of a pod, of at most %d bytes", maxPodName)
	}
	r = r.bounded()
	r.At = s.cfg.Now().UTC()
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	if len(data) > maxReport {
		return nil, refusef("a report of %d bytes, at most %d are taken", len(data), maxReport)
	}
	if err := s.nc.Publish(reportsSubject+queue.Token(c.namespace)+"."+queue.Token(c.agent), data); err != nil {
		return nil, unavailable(err)
	}
	return &struct{}{}, nil
}

// hear takes in a report that a service passed on.
func (s *Service) hear(m *nats.Msg) {
	var r Report
	c, err := reportedBy(m.Subject)
	if err == nil {
		err = json.Unmarshal(m.Data, &r)
	}
	if err != nil {
		s.cfg.Logger.Debug("report cannot be read", "error", err)
		return
	}
	if s.reports.put(c, r, s.cfg.Now()) && s.cfg.Reported != nil {
		s.cfg.Reported(c.namespace, c.agent)
	}
}

func reportedBy(subject string) (c caller, err error) {
	namespace, agent, _ := strings.Cut(strings.TrimPrefix(subject, reportsSubject), ".")
	if c.namespace, err = queue.Untoken(namespace); err != nil {
		return c, err
	}
	c.agent, err = queue.Untoken(agent)
	return c, err
}

// reports are the last reports of all pods. It is safe for concurrent use.
type reports struct {
	mu     sync.Mutex
	agents map[caller]map[string]Report // by pod
	swept  time.Time
}

func newReports() *reports { return &reports{agents: map[caller]map[string]Report{}} }

// put remembers a report. It says whether there is news in it.
func (rs *reports) put(c caller, r Report, now time.Time) (news bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.sweep(now)
	pods := rs.agents[c]
	before, known := pods[r.Pod]
	switch {
	case known && before.At.After(r.At) || !known && len(pods) >= maxPods:
		return false
	case r.Gone:
		delete(pods, r.Pod)
		return known
	case pods == nil:
		pods = map[string]Report{}
		rs.agents[c] = pods
	}
	pods[r.Pod] = r
	return !known || r.news(before)
}

// sweep forgets, now and then, what counts no more.
func (rs *reports) sweep(now time.Time) {
	if now.Sub(rs.swept) < ReportTTL && !now.Before(rs.swept) {
		return
	}
	rs.swept = now
	for c, pods := range rs.agents {
		maps.DeleteFunc(pods, func(_ string, r Report) bool { return r.expired(now) })
		if len(pods) == 0 {
			delete(rs.agents, c)
		}
	}
}

func (r Report) expired(now time.Time) bool { return now.Sub(r.At) >= ReportTTL }

func (rs *reports) of(c caller, now time.Time) []Report {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var all []Report
	for _, r := range rs.agents[c] {
		if !r.expired(now) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Report) int { return strings.Compare(a.Pod, b.Pod) })
	return all
}
