package task

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Limits of a body that Decode accepts. They are far above what ark writes and far below what harms a reader.
const (
	MaxBody  = 1 << 20 // bytes
	MaxDepth = 100     // objects and arrays inside each other
	MaxKeys  = 50_000  // keys of objects and elements of arrays, all together
)

var (
	// ErrLimit means that a body is above MaxBody, MaxDepth or MaxKeys.
	ErrLimit = errors.New("the body is above the limits")
	// ErrVersion means that a body was written by a newer build, or says no version at all.
	ErrVersion = errors.New("unknown version of the body")
	// ErrIncomplete means that a body lacks a field that names what it is about.
	ErrIncomplete = errors.New("a required field is missing")
)

// Body is what travels over the queue.
type Body interface {
	Task | Result | Delegated
}

// Decode reads a body that came from the queue. It never panics and does not allocate more than a small multiple of
// the body's size. Unknown fields are ignored: a later build of the same version may have added them. The error is
// ErrLimit, ErrVersion, ErrIncomplete or what encoding/json says.
func Decode[B Body](data []byte) (*B, error) {
	b := new(B)
	if err := checkLimits(data); err != nil {
		return nil, fmt.Errorf("decode %T: %w", *b, err)
	}
	if err := json.Unmarshal(data, b); err != nil {
		// A newer version may have changed the type of a field: that is then the better thing to say.
		var head struct {
			Version int `json:"v"`
		}
		if json.Unmarshal(data, &head) == nil && head.Version > Version {
			err = versionError(head.Version)
		}
		return nil, fmt.Errorf("decode %T: %w", *b, err)
	}
	if err := check(b); err != nil {
		return nil, fmt.Errorf("decode %T: %w", *b, err)
	}
	return b, nil
}

func check(body any) error {
	switch b := body.(type) {
	case *Task:
		return first(checkVersion(b.Version), required("task", b.ID), required("kind", string(b.Kind)),
			required("namespace", b.Namespace), required("agent", b.Agent), required("run.uid", b.Run.UID))
	case *Result:
		return first(checkVersion(b.Version), required("task", b.TaskID), checkStatus(b))
	case *Delegated:
		return first(checkVersion(b.Version), required("parent", b.Parent), required("child", b.Child),
			required("role", b.Role), required("agent", b.Agent))
	default:
		return nil
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkVersion(v int) error {
	if v < 1 || v > Version {
		return versionError(v)
	}
	return nil
}

func versionError(v int) error {
	return fmt.Errorf("%w: v is %d, this build reads 1 to %d", ErrVersion, v, Version)
}

func required(field, value string) error {
	if value == "" {
		return fmt.Errorf("%w: %s", ErrIncomplete, field)
	}
	return nil
}

func checkStatus(r *Result) error {
	switch {
	case r.Status != Succeeded && r.Status != Failed && r.Status != Cancelled:
		return fmt.Errorf("%w: status is %q", ErrIncomplete, r.Status)
	case r.Status != Succeeded && r.Error == nil:
		return fmt.Errorf("%w: error, for status %s", ErrIncomplete, r.Status)
	default:
		return nil
	}
}

// checkLimits walks over the text once, without building anything. Whether it is JSON at all is left to the decoder.
func checkLimits(data []byte) error {
	if len(data) > MaxBody {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrLimit, len(data), MaxBody)
	}
	depth, keys := 0, 0
	inString, escaped := false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = c == '\\'
			inString = c != '"'
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			depth++
			keys++
		case c == '}' || c == ']':
			depth--
		case c == ',':
			keys++
		}
		if depth > MaxDepth {
			return fmt.Errorf("%w: nested deeper than %d", ErrLimit, MaxDepth)
		}
		if keys > MaxKeys {
			return fmt.Errorf("%w: more than %d keys and elements", ErrLimit, MaxKeys)
		}
	}
	return nil
}
