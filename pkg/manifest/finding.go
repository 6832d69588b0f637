package manifest

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Finding is one fault of a manifest.
type Finding struct {
	File    string // as the source was named; an address without its password
	Line    int    // from 1; 0 when it is about the whole source
	Object  string // Kind/name, as far as they are known
	Field   string // spec.pipeline[2].inputs.prompt; empty when it is about the whole object
	Message string // what is wrong
	Hint    string // what to do, if that can be said
}

func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	for _, part := range []string{f.Object, f.Field} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	b.WriteString(": " + f.Message)
	if f.Hint != "" {
		b.WriteString(" (" + f.Hint + ")")
	}
	return b.String()
}

// Error holds every fault of the manifests, sorted by place in the order of the sources.
type Error struct {
	Findings []Finding
	More     int // how many findings beyond MaxFindings there were
}

// Error has one finding a line.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Findings)+1)
	for _, f := range e.Findings {
		lines = append(lines, f.String())
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", e.More))
	}
	return strings.Join(lines, "\n")
}

// fault makes the error of all findings.
func (l *loader) fault() *Error {
	var files []string
	for _, f := range l.findings {
		if !slices.Contains(files, f.File) && len(files) < MaxFiles {
			files = append(files, f.File)
		}
	}
	slices.SortStableFunc(l.findings, func(a, b Finding) int {
		if a.File != b.File {
			return slices.Index(files, a.File) - slices.Index(files, b.File)
		}
		return a.Line - b.Line
	})
	e := &Error{Findings: slices.Compact(l.findings)}
	if n := len(e.Findings); n > MaxFindings {
		e.Findings, e.More = e.Findings[:MaxFindings], n-MaxFindings
	}
	return e
}

// fromField words an error of the API's own checks.
func fromField(e *field.Error) (message, hint string) {
	switch e.Type {
	case field.ErrorTypeRequired:
		if e.Detail != "" {
			return e.Detail, ""
		}
		return "is required", ""
	case field.ErrorTypeDuplicate:
		return "stands twice: " + clip(fmt.Sprint(e.BadValue)), ""
	case field.ErrorTypeNotSupported:
		return fmt.Sprintf("%q is not possible", clip(fmt.Sprint(e.BadValue))), e.Detail
	case field.ErrorTypeTooMany:
		return "has too many items: " + e.Detail, ""
	case field.ErrorTypeTooLong:
		return "is too long: " + e.Detail, ""
	default: // the detail says it all
	}
	message = e.Detail
	if message == "" {
		message = e.ErrorBody()
	}
	if about, advice, ok := strings.Cut(message, "; did you mean "); ok {
		return about, "did you mean " + advice
	}
	message, _, _ = strings.Cut(message, " (e.g. ")
	switch v := e.BadValue.(type) {
	case string:
		if e.Type == field.ErrorTypeTypeInvalid || e.Type == field.ErrorTypeInvalid {
			message += fmt.Sprintf(", but is %q", clip(v))
		}
	case bool, int, int64, float64, fmt.Stringer:
		message += fmt.Sprintf(", but is %s", clip(fmt.Sprint(v)))
	}
	return message, ""
}

// clip cuts a text for a message.
func clip(s string) string {
	n := 0
	for i := range s {
		if n == 64 {
			return s[:i] + "..."
		}
		n++
	}
	return s
}

// closest names the candidate that was probably meant, or "".
func closest(name string, candidates []string) string {
	best, distance := "", 1+max(1, len(name)/3)
	for _, c := range candidates {
		if strings.EqualFold(name, c) {
			return c
		}
		if d := edits(strings.ToLower(name), strings.ToLower(c)); d < distance {
			best, distance = c, d
		}
	}
	return best
}

// edits counts the letters to insert, remove, change or swap between two short texts.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
