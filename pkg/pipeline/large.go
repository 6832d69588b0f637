package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
)

// A text of the engine - the answer of a task, the output of a step or of the run - is held whole, or as its beginning.
// It is a string with an optional reference to where it is stored (Output and OutputRef, and the like). The reference is
// always that of the whole text: when its Size is more than the string has, the string is the beginning, whole characters,
// and the rest is in the payload store only. A text without a reference is whole.
//
// Plan.Reads says how much of an answer must be held for the checks of its step. Once it is accepted, a large answer that
// is stored as it is is kept as its beginning, unless templates take its JSON apart. Nothing that is held as its beginning
// ever passes for the whole: templates get a template.Large, prompts say that it is the beginning (task.Ref.Beginning) and
// attach the payload, and the run's output is passed on by reference.

// Bounds of texts, in bytes.
const (
	// maxWhole is up to which size every text is held whole: what a template works on.
	maxWhole = 1 << 20
	// headBytes is how much is kept of a text that is held as its beginning, and shown to a model of one.
	headBytes = 64 << 10
	// leastShown is how much is shown of each large output to a model at least, however many there are.
	leastShown = 1 << 10
	// maxJSON bounds an answer that is read as JSON.
	maxJSON = 8 << 20
	// maxItem bounds the answer for an item of a forEach, which becomes a part of a list.
	maxItem = 16 << 20
	// maxExamined bounds an answer that is searched for patterns and texts.
	maxExamined = 64 << 20
	// maxJudged bounds an answer that a judge reads, which it does in one prompt.
	maxJudged = 1 << 20
	// maxChildInput bounds the input of a child run, which is part of its object.
	maxChildInput = 1 << 20
)

// sizeOf is the size of the whole text.
func sizeOf(text string, ref *task.Ref) int64 {
	if ref == nil {
		return int64(len(text))
	}
	return max(ref.Size, int64(len(text)))
}

// isWhole says that no part of a text is missing.
func isWhole(text string, ref *task.Ref) bool { return sizeOf(text, ref) == int64(len(text)) }

// condense gives what is kept of a text: the beginning of a large one that is stored.
func condense(text string, ref *task.Ref) string {
	if ref == nil || len(text) <= headBytes || ref.Size <= maxWhole {
		return text
	}
	return strings.Clone(chars.Head(text, headBytes)) // the rest is to be forgotten
}

// Reads is how many bytes of a large answer the event that brings it must hold: all, or the beginning, which is then cut
// between two characters. It is meant for an event with an OutputRef and without an Output.
func (p *Plan) Reads(s *State, e TaskEnded) int64 {
	if e.OutputRef == nil {
		return 0
	}
	size := e.OutputRef.Size
	i := s.find(e.TaskID)
	switch {
	case size <= maxWhole:
		return size
	case i < 0 || s.Tasks[i].Done || e.Status != task.Succeeded || s.Tasks[i].Child != nil:
		return headBytes // it is only shown, or quoted
	case s.Tasks[i].Kind != task.KindStep:
		return maxWhole // more than the word that a judge or a router is asked for
	default:
		return p.steps[s.Tasks[i].Step].reads(size)
	}
}

// reads is how much of an answer the checks of the step need, and those that take it apart later.
func (st *step) reads(size int64) int64 {
	limit := st.spec.MaxOutputBytes
	switch {
	case st.refusal(size) != "":
		return headBytes
	case limit > 0 && size > limit:
		return min(size, limit+utf8.UTFMax) // so that it is cut where a whole one would be
	case st.isJSON(), st.items != nil, len(st.reject) > 0, st.spec.Validate != nil && st.spec.Validate.Contains != "":
		return size
	case st.keeps(size):
		return size
	default:
		return headBytes
	}
}

// keeps says that an accepted answer is held whole whatever its size: its JSON is taken apart.
func (st *step) keeps(size int64) bool {
	return size <= maxWhole || size <= maxJSON && (st.listed || st.schema != nil)
}

// isJSON says that an answer is checked against a JSON Schema.
func (st *step) isJSON() bool { return st.schema != nil || st.validate != nil }

// refusal says why an answer is too large for the checks of the step, in one or two sentences; empty when it is not.
func (st *step) refusal(size int64) string {
	if limit := st.spec.MaxOutputBytes; limit > 0 && size > limit && !st.isJSON() {
		size = limit // it is cut first
	}
	rules := st.spec.Validate
	most, what := int64(0), ""
	switch {
	case rules != nil && rules.Semantic != "" && size > maxJudged:
		most, what = maxJudged, "of an answer that a judge reads (validate.semantic)"
	case st.isJSON() && size > maxJSON:
		most, what = maxJSON, "of an answer that must fit a JSON Schema"
	case st.items != nil && size > maxItem:
		most, what = maxItem, "of an answer for one item of a forEach"
	case (len(st.reject) > 0 || rules != nil && rules.Contains != "") && size > maxExamined:
		most, what = maxExamined, "of an answer that is searched (validate.rejectPatterns, validate.contains)"
	default:
		return ""
	}
	return fmt.Sprintf("The answer has %d bytes; at most %d are allowed %s. Ask for a shorter answer, cut it with maxOutputBytes where it may be cut, "+
		"or leave this check to a step after this one.", size, most, what)
}

// Attachment is a payload of the run of which a prompt shows the beginning. Text is the whole of it when it is in no store
// yet, and then it must be stored before the task is queued.
type Attachment struct {
	Ref  task.Ref `json:"ref"`
	Text string   `json:"text,omitempty"`
}

// attachment is the output of a step as what can be attached. The reference of one that is in no store is made here.
func (st *StepState) attachment(uid string) Attachment {
	if r := st.OutputRef; r != nil {
		return Attachment{Ref: task.Ref{Key: r.Key, Size: r.Size, SHA256: r.SHA256}} // without its preview: tasks are to be small
	}
	if st.hash.value == nil || st.hash.of != st.Output {
		sum := sha256.Sum256([]byte(st.Output))
		st.hash = parsed{st.Output, hex.EncodeToString(sum[:])}
	}
	sum, _ := st.hash.value.(string)
	return Attachment{Ref: task.Ref{Key: uid + "/" + sum, Size: int64(len(st.Output)), SHA256: sum}, Text: st.Output}
}

// beginning shows a model the first part of an output, cut to n bytes.
func (in scene) beginning(uid string, st *StepState, n int) string {
	a := st.attachment(uid)
	*in.shown = append(*in.shown, a)
	return a.Ref.Beginning(chars.Head(st.Output, n))
}

// attach adds what a part of a prompt shows the beginning of. A template may have left out an output, or cut off the end.
func attach(attached []Attachment, part string, shown []Attachment) []Attachment {
	for _, a := range shown {
		known := slices.ContainsFunc(attached, func(b Attachment) bool { return a.Ref.Key == b.Ref.Key })
		if !known && strings.Contains(part, a.Ref.ID()) {
			attached = append(attached, a)
		}
	}
	return attached
}
