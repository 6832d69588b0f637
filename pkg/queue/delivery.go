package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
)

// What a consumer answers about a message.
const (
	ackDone       = "+ACK"
	ackInProgress = "+WPI"
	ackTerm       = "+TERM"
	ackNak        = "-NAK"
)

// buryRetry is how long a message that cannot be read rests when it cannot be put away either.
const buryRetry = time.Minute

// Delivery is one task in the hands of this process. It ends with Ack, Nak, Term or Release, which free its slot;
// until then InProgress must be called more often than AckWait, or the task is given to somebody else as well. An
// acknowledgement is no fence: it is taken from a process that was too slow, too.
type Delivery struct {
	Task       *task.Task // complete, and the one that the subject names
	Deliveries int        // 1 for the first
	Stored     time.Time  // when the task was queued, by the server's clock

	tasks *Tasks
	msg   *nats.Msg
	slot  sync.Once
}

// newDelivery reads a message. With an error the delivery is good for putting the message away only.
func newDelivery(t *Tasks, m *nats.Msg) (*Delivery, error) {
	d := &Delivery{tasks: t, msg: m}
	meta, err := m.Metadata()
	if err != nil {
		return d, fmt.Errorf("read delivery: %w", err)
	}
	d.Deliveries, d.Stored = int(min(meta.NumDelivered, 1<<30)), meta.Timestamp
	body, err := task.Decode[task.Task](m.Data)
	if err != nil {
		return d, err
	}
	if taskSubject(body.Namespace, body.Agent, body.ID) != m.Subject {
		return d, fmt.Errorf("subject %s holds %s", m.Subject, KeyOf(body))
	}
	d.Task = body
	return d, nil
}

// Key names the task.
func (d *Delivery) Key() Key { return KeyOf(d.Task) }

// Context returns ctx with the trace of whoever submitted the task.
func (d *Delivery) Context(ctx context.Context) context.Context { return Extract(ctx, d.msg.Header) }

// InProgress tells the server that the task is still worked on: AckWait begins anew.
func (d *Delivery) InProgress() error {
	if err := d.tasks.q.nc.Publish(d.msg.Reply, []byte(ackInProgress)); err != nil {
		return fmt.Errorf("keep %s: %w", d.Key(), notStored(err))
	}
	return nil
}

// Ack ends the task: it is removed from the queue. It returns when the server has said so; after an error the task
// may come again, and its result tells that it is done.
func (d *Delivery) Ack(ctx context.Context) error {
	defer d.Release()
	if err := d.answer(ctx, ackDone); err != nil {
		return fmt.Errorf("acknowledge %s: %w", d.Key(), err)
	}
	return nil
}

// Nak hands the task back, to be delivered again after the delay (at once if 0), to this process or another one.
func (d *Delivery) Nak(delay time.Duration) error {
	defer d.Release()
	if err := nak(d.tasks.q.nc, d.msg.Reply, delay); err != nil {
		return fmt.Errorf("hand back %s: %w", d.Key(), err)
	}
	return nil
}

// Term copies the task to StreamDead, with the reason, and removes it from the queue. Without the copy it stays, and
// comes again after AckWait.
func (d *Delivery) Term(ctx context.Context, reason string) error {
	defer d.Release()
	if err := d.tasks.q.putAway(ctx, d.msg, reason, false); err != nil {
		return fmt.Errorf("put away %s: %w", d.Key(), err)
	}
	if err := d.answer(ctx, ackTerm+" "+reason); err != nil {
		return fmt.Errorf("put away %s: %w", d.Key(), err)
	}
	return nil
}

// Release frees the slot and says nothing to the server: the task comes again after AckWait unless somebody else
// ends it. It may be called after Ack, Nak and Term.
func (d *Delivery) Release() { d.slot.Do(d.tasks.release) }

// Yield frees the slot for a while: the task waits for others, which may need it. Each Yield is followed by one Resume.
func (d *Delivery) Yield() { d.tasks.release() }

// Resume takes the slot again, also when none is free; what was asked for meanwhile still arrives.
func (d *Delivery) Resume() { d.tasks.take() }

// answer sends an acknowledgement and waits until the server confirms it.
func (d *Delivery) answer(ctx context.Context, what string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	ctx, cancel := d.tasks.q.bounded(ctx)
	defer cancel()
	_, err := d.tasks.q.nc.RequestWithContext(ctx, d.msg.Reply, []byte(what))
	return classify(err)
}

// handBack is for deliveries that nobody took.
func (d *Delivery) handBack() {
	defer d.Release()
	if err := nak(d.tasks.q.nc, d.msg.Reply, 0); err != nil {
		d.tasks.q.cfg.Logger.Debug("task was not handed back, it comes again later", "subject", d.msg.Subject, "error", err)
	}
}

func nak(nc *nats.Conn, reply string, delay time.Duration) error {
	body := ackNak
	if delay > 0 {
		body = fmt.Sprintf(`%s {"delay": %d}`, ackNak, delay.Nanoseconds())
	}
	if err := nc.Publish(reply, []byte(body)); err != nil {
		return notStored(err)
	}
	return nil
}

// bury puts away a message that cannot be read: the task gets a failed result, so that its run goes on, StreamDead a
// copy, and the queue is rid of it. When that is not possible now, it is tried again later.
func (t *Tasks) bury(d *Delivery, cause error) {
	defer d.Release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), t.q.cfg.Timeout)
	defer cancel()
	log := t.q.cfg.Logger.With("subject", d.msg.Subject, "cause", cause)
	err := t.q.putAway(ctx, d.msg, cause.Error(), true)
	if err == nil {
		err = d.answer(ctx, ackTerm)
	}
	if err == nil {
		log.Error("task cannot be read, it was put away", "stream", StreamDead)
		return
	}
	log.Error("task cannot be read and cannot be put away yet", "error", err)
	if err := nak(t.q.nc, d.msg.Reply, buryRetry); err != nil {
		log.Debug("task was not handed back, it comes again later", "error", err)
	}
}

// putAway copies a task to StreamDead. One that nobody can read gets a failed result as well.
func (q *Queue) putAway(ctx context.Context, m *nats.Msg, reason string, unread bool) error {
	if q.desk != nil {
		return q.desk.putAway(ctx, m.Subject, reason, unread)
	}
	var err error
	if unread {
		err = q.failUnread(ctx, m, reason)
	}
	return errors.Join(err, q.bury(ctx, m, StreamTasks, reason))
}

// failUnread publishes the result of a task whose body cannot be read, when its message says which run it is of.
func (q *Queue) failUnread(ctx context.Context, m *nats.Msg, cause string) error {
	key, ok := unreadKey(m)
	if !ok {
		return nil
	}
	_, err := q.PublishResult(ctx, key, &task.Result{
		Version: task.Version,
		TaskID:  key.TaskID,
		Status:  task.Failed,
		Error:   task.Errorf(task.CodeBadTask, "the task cannot be read: %s", chars.Head(cause, 500)),
	})
	return err
}

// unreadKey names the task of a message by its subject and headers alone.
func unreadKey(m *nats.Msg) (Key, bool) {
	run := m.Header.Get(headerRun)
	if run == "" {
		return Key{}, false
	}
	kind, key, err := parseKey(insertRun(m.Subject, run))
	return key, err == nil && kind == "task"
}

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
	if err := q.publish(ctx, dead, ""); err != nil && !errors.Is(err, ErrExists) {
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
	return chars.Head(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), 500)
}
