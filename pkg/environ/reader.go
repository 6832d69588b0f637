package environ

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/chars"
)

// shownBytes is how much of a wrong value an error shows.
const shownBytes = 100

// reader reads variables and notes what is wrong with them.
type reader struct {
	source Source
	faults []string
}

func (r *reader) get(name string) (value, under string) { return Get(r.source.Getenv, name) }

// text is a variable that may hold anything.
func (r *reader) text(name string) string {
	v, _ := r.get(name)
	return v
}

func (r *reader) fault(under, holds, allowed string) {
	if len(holds) > shownBytes {
		holds = chars.Head(holds, shownBytes) + "..."
	}
	r.faults = append(r.faults, fmt.Sprintf("%s is %q: %s", under, holds, oneLine(allowed)))
}

// oneLine keeps a fault on its line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// required is a text that must be there, in the variable or in one of the others.
func (r *reader) required(name, what string, others ...string) string {
	v, _ := r.get(name)
	if v = cmp.Or(append([]string{strings.TrimSpace(v)}, others...)...); v == "" {
		r.faults = append(r.faults, fmt.Sprintf("%s is not set: it must be %s", name, what))
	}
	return v
}

// choice is one of several words, the first one when it is not set.
func (r *reader) choice(name string, words ...string) string {
	v, under := r.get(name)
	if v == "" {
		return words[0]
	}
	if !slices.Contains(words, v) {
		r.fault(under, v, "it must be one of "+strings.Join(words, ", "))
	}
	return v
}

func (r *reader) boolean(name string) bool { return r.choice(name, "false", "true") == "true" }

// number is a whole number within bounds, 0 when it is not set.
func (r *reader) number(name string, least, most int64) int64 {
	v, under := r.get(name)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
	if err != nil || n < least || n > most {
		r.fault(under, v, fmt.Sprintf("it must be a whole number from %d to %d", least, most))
		return 0
	}
	return n
}

// count is a whole number from 0, nil when it is not set.
func (r *reader) count(name string, most int64) *int {
	if v, _ := r.get(name); v == "" {
		return nil
	}
	n := int(r.number(name, 0, most))
	return &n
}

func (r *reader) seconds(name string, most int64) time.Duration {
	return time.Duration(r.number(name, 1, most)) * time.Second
}

func (r *reader) float(name string, most float64) *float64 {
	v, under := r.get(name)
	if v == "" {
		return nil
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
	if err != nil || !(f >= 0 && f <= most) {
		r.fault(under, v, fmt.Sprintf("it must be a number from 0 to %g", most))
		return nil
	}
	return &f
}

// systemPrompt is that of the file, or else that of the variable.
func (r *reader) systemPrompt() string {
	path, under := r.get(SystemPromptPath)
	if path == "" {
		return r.text(SystemPrompt)
	}
	b, err := r.source.ReadFile(path)
	if err != nil {
		r.fault(under, path, "it must be a file that can be read: "+err.Error())
	}
	return string(b)
}

// file is the name of a file that is there.
func (r *reader) file(name string) string {
	path, under := r.get(name)
	if path == "" {
		return ""
	}
	if _, err := r.source.ReadFile(path); err != nil {
		r.fault(under, path, "it must be a file that can be read: "+err.Error())
	}
	return path
}

// natsURL is a list of servers. What stands before the host may be a secret and is not shown.
func (r *reader) natsURL() string {
	v, under := r.get(NATSURL)
	const allowed = "it must be the address of a NATS server, such as nats://ark.ark-system:4222, or several with commas between them"
	if v == "" {
		r.faults = append(r.faults, NATSURL+" is not set: "+allowed)
		return ""
	}
	for one := range strings.SplitSeq(v, ",") {
		one = strings.TrimSpace(one)
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			r.fault(under, withoutUser(v), allowed)
			return ""
		}
	}
	return v
}

// withoutUser hides what stands before the hosts of addresses.
func withoutUser(addresses string) string {
	all := strings.Split(addresses, ",")
	for i, a := range all {
		scheme, rest, ok := strings.Cut(a, "://")
		if !ok {
			scheme, rest = "", a
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = "***" + rest[at:]
		}
		if ok {
			rest = scheme + "://" + rest
		}
		all[i] = rest
	}
	return strings.Join(all, ",")
}

// probe is the semantic probe, nil for ping.
func (r *reader) probe() *Probe {
	p := &Probe{
		Prompt: r.text(ValidatorPrompt), Expect: strings.TrimSpace(r.text(ProbeExpect)),
		Interval: r.seconds(ProbeInterval, maxSeconds), Timeout: r.seconds(ProbeTimeout, maxProbeTimeout),
		FailureThreshold: int(r.number(ProbeFailureThreshold, 1, maxThreshold)),
	}
	kind, _ := r.get(ProbeType)
	if kind == "" && p.Prompt == "" || r.choice(ProbeType, "semantic", "ping") == "ping" {
		return nil
	}
	return p
}
