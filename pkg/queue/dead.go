package queue

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
)

const (
	headerReason  = "Ark-Reason"  // why a message is dead
	headerStream  = "Ark-Stream"  // where it was
	headerSubject = "Ark-Subject" // and under which subject
)

// bury copies a message to StreamDead, with its headers. Doing it twice keeps one copy.
func (q *Queue) bury(ctx context.Context, m *nats.Msg, stream, reason string) error {
	dead := message(ctx, deadSubject(m.Subject), m.Data)
	for k, v := range m.Header {
		if !strings.HasPrefix(k, "Nats-") {
			dead.Header[k] = v
		}
	}
	dead.Header.Set(headerReason, oneLine(reason))
	dead.Header.Set(headerStream, stream)
	dead.Header.Set(headerSubject, m.Subject)
	if _, err := q.publish(ctx, dead, ""); err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	return nil
}

// deadSubject is ark.dead.<ns>.<agent>. and the rest of the message's own subject, its kind last, so that an agent can
// be confined to its own.
func deadSubject(subject string) string {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 4 || tokens[0] != "ark" {
		return "ark.dead._._." + Token(subject)
	}
	return "ark.dead." + strings.Join(tokens[2:], ".") + "." + tokens[1]
}

// insertRun makes a subject with a run uid from one without: ark.task.<ns>.<agent>.<id>.
func insertRun(subject, run string) string {
	i := strings.LastIndexByte(subject, '.')
	if i < 0 {
		return subject
	}
	return subject[:i] + "." + run + subject[i:]
}

// oneLine makes a text fit for a header.
func oneLine(s string) string {
	return clip(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), 500)
}

// clip cuts a text to at most n bytes, at a border of characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
