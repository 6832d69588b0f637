package pipeline

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
)

// answered looks at the answer of an agent, or of a child run.
func (f *fold) answered(i, item int, e *TaskEnded) {
	st := f.p.steps[i]
	u := &f.s.Steps[i].Units[item]
	size := sizeOf(e.Output, e.OutputRef)
	v := f.p.examine(st, e.Output, size)
	u.Output, u.Raw, u.Ref, u.Message = v.output, "", nil, v.note
	switch {
	case v.output == e.Output:
		u.Ref = e.OutputRef
		if st.items == nil && !st.keeps(size) {
			u.Output = condense(u.Output, u.Ref)
		}
	case v.note == "":
		u.Raw = e.Output
	}
	switch {
	case v.problem != "":
		f.refuse(i, item, e.Output, e.OutputRef, v)
	case st.spec.Validate != nil && st.spec.Validate.Semantic != "":
		f.judge(i, item)
	default:
		f.acceptUnit(i, item)
	}
}

// judged looks at what a judge said of the answer.
func (f *fold) judged(i, item int, said string) {
	u := &f.s.Steps[i].Units[item]
	r, reason := readRuling(said)
	switch {
	case r == valid:
		f.acceptUnit(i, item)
	case r == invalid:
		if reason == "" {
			reason = "The check gave no reason."
		}
		answer, ref := u.Output, u.Ref
		if u.Raw != "" {
			answer, ref = u.Raw, nil
		}
		f.refuse(i, item, answer, ref, verdict{problem: "A check of the answer found: " + chars.Head(reason, maxQuoted)})
	case u.Corrections < f.p.steps[i].maxRefusals:
		// The answer may be good: the judge is asked again, not the agent.
		u.Corrections++
		f.judge(i, item)
	default:
		f.failUnit(i, item, string(task.CodeOutputInvalid), fmt.Sprintf("the check of the answer gave neither VALID nor INVALID, but: %s", chars.Head(said, 200)))
	}
}

// refuse asks for another answer, or fails the unit.
func (f *fold) refuse(i, item int, answer string, ref *task.Ref, v verdict) {
	st := f.p.steps[i]
	u := &f.s.Steps[i].Units[item]
	u.Refused, u.RefusedRef, u.Feedback = condense(answer, ref), ref, v.problem
	most := st.maxRefusals
	if v.format {
		most = st.maxCorrections
	}
	if v.final || u.Corrections >= most {
		message := v.problem
		if u.Corrections > 0 {
			message = fmt.Sprintf("after %d corrections: %s", u.Corrections, v.problem)
		}
		f.failUnit(i, item, string(task.CodeOutputInvalid), message)
		return
	}
	u.Corrections++
	f.work(i, item)
}

// routed looks at what the router chose.
func (f *fold) routed(i, item int, said string) {
	state := &f.s.Steps[i]
	choice, reason := readChoice(said, f.p.routing.Capabilities)
	if choice == nil || len(choice.Agents) == 0 {
		f.routeElsewhere(i, item, fmt.Sprintf("the router chose nothing that exists: %q", chars.Head(said, 200)))
		return
	}
	state.Selected, state.RoutingReason = choice.ID, reason
	f.work(i, item)
}

// routeElsewhere takes the fallback, or ends the run.
func (f *fold) routeElsewhere(i, item int, why string) {
	state, routing := &f.s.Steps[i], f.p.routing
	fallback := f.p.capability(routing.Fallback)
	missing := ""
	switch {
	case routing.Fallback == "":
		missing = "there is no routing.fallback"
	case fallback != nil && len(fallback.Agents) == 0:
		missing = fmt.Sprintf("no agent has the fallback %q", routing.Fallback)
	case fallback != nil:
		state.Selected = fallback.ID
	}
	if missing == "" {
		state.RoutingReason = "fallback: " + why
		f.work(i, item)
		return
	}
	state.Phase, state.Reason, state.Message, state.Completed = v1alpha1.StepFailed, v1alpha1.ReasonRoutingFailed, why, f.at
	f.end(Ending{
		Phase: v1alpha1.RunFailed, Reason: v1alpha1.ReasonRoutingFailed, FailedStep: f.p.steps[i].id, Message: why + "; " + missing,
	})
}

// verdict is what became of an answer.
type verdict struct {
	output  string // the accepted text
	note    string // what was done to it
	problem string // why it is not accepted; empty when it is
	final   bool   // no correction is asked for
	format  bool   // it does not fit the outputSchema, which is corrected whatever validate says
}

// examine checks an answer of size bytes, of which as much is there as Plan.Reads says, in the order of the spec: its
// size, outputSchema, rejectPatterns, contains, schema. What a judge thinks of it comes after.
func (p *Plan) examine(st *step, answer string, size int64) verdict {
	v := verdict{output: answer}
	limit := st.spec.MaxOutputBytes
	switch {
	case limit > 0 && size > limit && st.isJSON():
		// A JSON text that is cut is not JSON any more.
		v.problem = fmt.Sprintf("The answer has %d bytes; at most %d are allowed.", size, limit)
		v.format = st.schema != nil
		return v
	case st.refusal(size) != "":
		v.problem, v.final = st.refusal(size), true
		return v
	case limit > 0 && size > limit:
		v.output = strings.Clone(chars.Head(answer, int(limit)))
		v.note = fmt.Sprintf("the answer was cut from %d to %d bytes (maxOutputBytes)", size, len(v.output))
	}
	if re := p.rejected(st, v.output); re != nil {
		v.problem, v.final = fmt.Sprintf("The answer matches the pattern %s, which is not allowed.", re), true
		return v
	}
	if st.schema != nil {
		text, problem := p.checkJSON(st.schema, answer)
		if problem != "" {
			v.problem, v.format = "The answer must be JSON that fits the schema that was asked for. "+problem, true
			return v
		}
		v.output = text
	}
	rules := st.spec.Validate
	if rules == nil {
		return v
	}
	if !strings.Contains(v.output, rules.Contains) {
		v.problem = fmt.Sprintf("The answer must contain this text: %s", rules.Contains)
		return v
	}
	if st.validate != nil {
		if _, problem := p.checkJSON(st.validate, v.output); problem != "" {
			v.problem = "The answer must be JSON that fits this schema: " + chars.Head(rules.Schema, maxQuoted) + "\n" + problem
		}
	}
	return v
}

func (p *Plan) rejected(st *step, answer string) *regexp.Regexp {
	for _, re := range st.reject {
		if re.MatchString(answer) {
			return re
		}
	}
	return nil
}

// maxViolations bounds what is told of a mismatch.
const maxViolations = 20

// checkJSON takes the JSON out of an answer and checks it. It returns the JSON's text, or what is wrong.
func (p *Plan) checkJSON(check func(any) []Violation, answer string) (text, problem string) {
	raw, err := p.options.Extract(answer)
	if err != nil {
		return "", sentence(err.Error())
	}
	doc, err := decodeJSON(raw)
	if err != nil {
		return "", sentence(err.Error())
	}
	violations := check(doc)
	if len(violations) == 0 {
		return string(raw), ""
	}
	var b strings.Builder
	b.WriteString("What does not fit:")
	for i, v := range violations {
		if i == maxViolations {
			fmt.Fprintf(&b, "\n- and %d more", len(violations)-i)
			break
		}
		path := v.Path
		if path == "" {
			path = "the whole answer"
		}
		fmt.Fprintf(&b, "\n- %s %s", path, v.Message)
	}
	return "", b.String()
}

// sentence makes one of an error's text.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	first := []rune(text)
	first[0] = unicode.ToUpper(first[0])
	text = string(first)
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

// ruling is what a judge said.
type ruling int

const (
	noRuling ruling = iota
	valid
	invalid
)

// readRuling finds the verdict in a judge's answer: its first word, or else the first of the words in capital letters,
// unless it is negated. The reason is the rest.
func readRuling(answer string) (ruling, string) {
	words := splitWords(answer)
	for i, w := range words {
		text := answer[w.from:w.to]
		r := rulingOf(strings.ToUpper(text))
		if r == noRuling || (i > 0 && text != strings.ToUpper(text)) {
			continue
		}
		if i > 0 && negates(answer[words[i-1].from:words[i-1].to]) {
			return noRuling, strings.TrimSpace(answer)
		}
		reason := strings.TrimLeftFunc(answer[w.to:], func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if i > 0 && reason == "" {
			reason = answer
		}
		return r, strings.TrimSpace(reason)
	}
	return noRuling, strings.TrimSpace(answer)
}

func rulingOf(word string) ruling {
	switch word {
	case "VALID", "PASS":
		return valid
	case "INVALID", "FAIL":
		return invalid
	}
	return noRuling
}

func negates(word string) bool {
	w := strings.ToLower(word)
	return w == "not" || w == "no" || w == "never" || strings.HasSuffix(w, "n't") || strings.HasSuffix(w, "n\u2019t")
}

type span struct{ from, to int }

// splitWords finds the words of a text: letters, digits, and what joins them.
func splitWords(text string) []span {
	var out []span
	from := -1
	for i, r := range text {
		in := unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' || (from >= 0 && strings.ContainsRune("-'\u2019", r))
		switch {
		case in && from < 0:
			from = i
		case !in && from >= 0:
			out, from = append(out, span{from, i}), -1
		}
	}
	if from >= 0 {
		out = append(out, span{from, len(text)})
	}
	for i := range out {
		// A dash that joins nothing ends the word.
		out[i].to = out[i].from + len(strings.TrimRight(text[out[i].from:out[i].to], "-'\u2019"))
	}
	return out
}

// readChoice finds the capability that a router chose, and why. An unknown or empty choice gives nil and what the
// router said instead.
func readChoice(answer string, choices []v1alpha1.RunCapability) (*v1alpha1.RunCapability, string) {
	var doc struct {
		Capability string `json:"capability"`
		ID         string `json:"id"`
		Reason     string `json:"reason"`
	}
	if json.Unmarshal([]byte(strings.TrimSpace(answer)), &doc) == nil {
		if c := choiceNamed(choices, doc.Capability+doc.ID); c != nil {
			return c, doc.Reason
		}
	}
	line, rest, _ := strings.Cut(strings.TrimSpace(answer), "\n")
	if c := choiceNamed(choices, line); c != nil {
		return c, strings.TrimSpace(rest)
	}
	// The id may stand with other words: as the first of them, or after "capability:".
	fields := strings.Fields(line)
	for i := range min(len(fields), 3) {
		if i > 0 && !strings.HasSuffix(fields[i-1], ":") {
			break
		}
		if c := choiceNamed(choices, fields[i]); c != nil {
			reason := strings.TrimLeft(strings.Join(fields[i+1:], " ")+"\n"+rest, " -:.\u2013\u2014")
			return c, strings.TrimSpace(reason)
		}
	}
	return nil, strings.TrimSpace(answer)
}

func choiceNamed(choices []v1alpha1.RunCapability, text string) *v1alpha1.RunCapability {
	name := strings.Trim(text, " \t\r\n`*\"'.,:;()[]<>")
	i := slices.IndexFunc(choices, func(c v1alpha1.RunCapability) bool { return c.ID == name && name != "" })
	if i < 0 {
		i = slices.IndexFunc(choices, func(c v1alpha1.RunCapability) bool { return strings.EqualFold(c.ID, name) && name != "" })
	}
	if i < 0 {
		return nil
	}
	return &choices[i]
}
