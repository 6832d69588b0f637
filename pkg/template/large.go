package template

import (
	"fmt"
	"strings"
)

// Large is a text in the data of which only the beginning is at hand. It counts as true, truncate cuts it as far as its
// beginning goes, and eq and ne know that a text of another length is another text. Value gives it as it is when the
// template is nothing else. Whatever would need all of it is a LargeError.
type Large struct {
	Head string // the first part, whole characters
	Size int64  // of the whole, in bytes: more than Head has
	Of   any    // what the caller knows the whole by; templates never look at it
}

// LargeError is a template that needs the whole of a Large text.
type LargeError struct {
	Size int64 // of the text, in bytes
	Head int   // how much of it is at hand
}

func (e *LargeError) Error() string {
	return fmt.Sprintf("the text has %d bytes, and templates work on texts of at most %d: name it in the inputs of an agent's step, which reads on in it, "+
		"or cut it with truncate (its first %d bytes are at hand)", e.Size, MaxOutput, e.Head)
}

func (l *Large) fault() error { return &LargeError{Size: l.Size, Head: len(l.Head)} }

// refuseLarge is the error of a function that cannot work on one of its arguments.
func refuseLarge(function string, args []any) error {
	switch function {
	case "not", "default", "truncate", "eq", "ne":
		return nil
	}
	for _, a := range args {
		if l, ok := a.(*Large); ok {
			return l.fault()
		}
	}
	return nil
}

// truncate gives the first n characters.
func (l *Large) truncate(r *run, n int64) (string, error) {
	if err := r.chargeText(len(l.Head)); err != nil {
		return "", err
	}
	at := int64(0)
	for i := range l.Head {
		if at == n {
			return strings.Clone(l.Head[:i]), nil
		}
		at++
	}
	if at == n {
		return l.Head, nil
	}
	return "", l.fault()
}

// equals compares with another value: texts of different lengths differ.
func (l *Large) equals(other any) (bool, error) {
	switch other := other.(type) {
	case string:
		if int64(len(other)) != l.Size {
			return false, nil
		}
	case *Large:
		if other.Size != l.Size {
			return false, nil
		}
	default:
		return false, errorf("cannot compare text with %s", describe(other))
	}
	return false, l.fault()
}
