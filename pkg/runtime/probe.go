package runtime

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/work"
)

// Probe is the semantic readiness probe: a question to the model, and the word that its answer must hold. One pod of an
// agent asks, and all share the verdict; every call is reserved in the agent's budgets. An answer to a real task within
// the interval stands in for it.
type Probe struct {
	Prompt           string        // the question; DefaultProbePrompt
	Expect           string        // as a whole word: UNHEALTHY is not HEALTHY; HEALTHY
	Interval         time.Duration // 30 s
	Timeout          time.Duration // of the answer; 15 s
	FailureThreshold int           // wrong answers in a row that make the agent unready; 3
}

// Defaults of a Probe.
const (
	DefaultProbeExpect           = "HEALTHY"
	DefaultProbePrompt           = "This is a readiness check. If you can read and follow this instruction, answer with exactly one word: "
	DefaultProbeInterval         = 30 * time.Second
	DefaultProbeTimeout          = 15 * time.Second
	DefaultProbeFailureThreshold = 3
)

const (
	// probeTokens caps the answer to a probe. Models that reason before they answer need some.
	probeTokens = 256
	// probeCalls is how many calls one probe may take: a server may refuse a feature, and is asked again without it.
	probeCalls = 4
	// probeRetry is how soon a pod that could not reach the work service tries again.
	probeRetry = 2 * time.Second
	// answerPart is how much of a wrong answer a verdict shows, in bytes.
	answerPart = 100
)

func (p Probe) withDefaults() *Probe {
	p.Expect = cmp.Or(p.Expect, DefaultProbeExpect)
	p.Prompt = cmp.Or(p.Prompt, DefaultProbePrompt+p.Expect)
	p.Interval = cmp.Or(p.Interval, DefaultProbeInterval)
	p.Timeout = cmp.Or(p.Timeout, DefaultProbeTimeout)
	p.FailureThreshold = cmp.Or(p.FailureThreshold, DefaultProbeFailureThreshold)
	return &p
}

func (p *Probe) validate() error {
	switch {
	case p.Interval <= 0:
		return errors.New("runtime: Probe.Interval must be above 0")
	case p.Timeout <= 0 || p.Timeout > time.Hour:
		return errors.New("runtime: Probe.Timeout must be above 0 and at most an hour")
	case p.FailureThreshold < 1:
		return errors.New("runtime: Probe.FailureThreshold must be above 0")
	default:
		return nil
	}
}

// setup names what a verdict is about: pods that would ask the same of the same share it.
func (c *Config) setup() string {
	h := sha256.New()
	for _, part := range []string{c.Provider.Name(), c.Model, c.Probe.Prompt, c.Probe.Expect} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// probe keeps the agent's verdict until ctx ends. What cannot be found out changes nothing.
func (r *Runtime) probe(ctx context.Context) {
	for {
		next, err := r.probeOnce(ctx)
		if err != nil {
			r.log.DebugContext(ctx, "the agent's health was not found out", "error", err)
			next = min(probeRetry, r.config.Probe.Interval)
		}
		if !sleep(ctx, next) {
			return
		}
	}
}

func (r *Runtime) probeOnce(ctx context.Context) (next time.Duration, err error) {
	c := &r.config
	turn, err := c.Work.Probe(ctx, c.Namespace, c.Agent, work.Probe{
		Pod: c.Pod, Setup: c.setup(), Interval: c.Probe.Interval, Timeout: c.Probe.Timeout, Threshold: c.Probe.FailureThreshold,
		Proven: r.health.lastProof(c.Model),
	})
	if err != nil {
		return 0, err
	}
	if turn.Session == nil {
		r.judge(ctx, turn.Verdict, "")
		return turn.Next, nil
	}
	a, err := c.ask(ctx, turn.Session)
	if err != nil && !errors.As(err, new(*work.BudgetError)) {
		return 0, errors.Join(err, r.leave(ctx, turn))
	}
	verdict, reportErr := turn.Report(ctx, err == nil, a)
	if reportErr != nil {
		return 0, reportErr
	}
	hindrance := ""
	if err != nil {
		hindrance = "the semantic probe cannot ask: " + err.Error()
	}
	r.judge(ctx, verdict, hindrance)
	return turn.Next, nil
}

// leave gives the turn back to whoever comes next.
func (r *Runtime) leave(ctx context.Context, turn *work.ProbeTurn) error {
	ctx, cancel := lingering(ctx)
	defer cancel()
	_, err := turn.Report(ctx, false, "")
	return err
}

// judge takes a verdict over. An agent that nobody has asked yet is not ready; hindrance says why nobody could.
func (r *Runtime) judge(ctx context.Context, v work.Verdict, hindrance string) {
	text := ""
	switch {
	case v.At.IsZero():
		text = cmp.Or(hindrance, "the semantic probe has not been answered yet")
	case !v.Healthy:
		text = fmt.Sprintf("the semantic probe failed %d times in a row: %s", v.Failures, v.Message)
	}
	if was := r.health.swapVerdict(&v); (was == nil || was.Healthy) != v.Healthy && !v.At.IsZero() {
		r.log.InfoContext(ctx, "the semantic probe changed the agent's health", "healthy", v.Healthy, "failures", v.Failures, "asked_by", v.Pod)
	}
	r.health.set(faultProbe, text)
}

// ask puts the question. failed says why the answer makes no sense, empty when it does. The error is why the model could
// not be asked.
func (c *Config) ask(ctx context.Context, s *work.Session) (failed string, err error) {
	stopped := ctx.Err
	ctx, cancel := context.WithTimeout(ctx, c.Probe.Timeout)
	defer cancel()
	var failure *llm.Error
	for call := 1; call <= probeCalls; call++ {
		req := llm.Request{
			Model: c.Model, Messages: []llm.Message{{Role: llm.RoleUser, Text: c.Probe.Prompt}},
			MaxTokens: min(probeTokens, c.Limits.MaxTokensPerCall), Temperature: c.Temperature, TopP: c.TopP,
			Key: fmt.Sprintf("probe-%s-%s-%d-%d", c.Namespace, c.Agent, s.TakenAt().UnixMilli(), call), Purpose: "probe", Agent: c.Agent,
		}
		intent := &work.Intent{Call: call, Reserve: llm.InputBound(req) + req.MaxTokens, Model: req.Model}
		if err := s.Append(ctx, work.Entry{Intent: intent}); err != nil {
			if _, refused := errors.AsType[*work.BudgetError](err); refused {
				c.Telemetry.BudgetRefused(ctx, c.Agent)
			}
			if ctx.Err() != nil {
				err = errors.Join(err, c.settle(ctx, s)) // gives back what was reserved all the same
			}
			return "", err
		}
		var resp *llm.Response
		resp, failure = c.chat(ctx, s.Task().ID, req, nil)
		if failure == nil {
			return c.Probe.weigh(resp.Message.Text), c.settle(ctx, s, answerEntry(intent, resp))
		}
		if err := c.settle(ctx, s, failedEntries(intent, failure)...); err != nil {
			return "", err
		}
		if stopped() != nil {
			return "", failure
		}
		if !failure.Fallback {
			break
		}
	}
	return fmt.Sprintf("%s: %s", failure.Code, chars.Head(failure.Message, answerPart)), nil
}

// settle journals what a call has used, also when its time is over.
func (c *Config) settle(ctx context.Context, s *work.Session, entries ...work.Entry) error {
	ctx, cancel := lingering(ctx)
	defer cancel()
	return s.Append(ctx, entries...)
}

// answerEntry is the journal's entry of a probe's answer.
func answerEntry(intent *work.Intent, resp *llm.Response) work.Entry {
	text, err := json.Marshal(chars.Head(resp.Message.Text, answerPart))
	if err != nil {
		text = []byte(`""`)
	}
	return work.Entry{Answer: &work.Answer{Call: intent.Call, Response: text, Usage: resp.Usage}}
}

// weigh says why an answer makes no sense, or nothing.
func (p *Probe) weigh(answer string) string {
	if holdsWord(answer, p.Expect) {
		return ""
	}
	return fmt.Sprintf("the model answered %q, which does not hold the word %s", chars.Head(strings.TrimSpace(answer), answerPart), p.Expect)
}

// holdsWord says whether a text holds a word, with no letter, digit or underscore next to it.
func holdsWord(text, word string) bool {
	for from := 0; word != ""; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(word)
		before, _ := utf8.DecodeLastRuneInString(text[:start])
		after, _ := utf8.DecodeRuneInString(text[end:])
		if (start == 0 || !isWord(before)) && (end == len(text) || !isWord(after)) {
			return true
		}
		_, size := utf8.DecodeRuneInString(text[start:])
		from = start + size
	}
	return false
}

func isWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
