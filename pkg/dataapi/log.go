package dataapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

const (
	// maxLogText bounds the text of an entry, in bytes.
	maxLogText = 64 << 10
	// maxLogEntry bounds an entry of a journal that is read for its text.
	maxLogEntry = 1 << 20
	// maxFollowers bounds those who follow logs at once.
	maxFollowers = 128
)

// logs answers with what happened in a run: first what is stored, in the order of time; with follow, then what happens,
// until the run has ended or the client has gone.
func (s *Server) logs(w http.ResponseWriter, r *http.Request, run *v1alpha1.ArkRun) {
	follow := r.URL.Query().Get("follow") == "true"
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	l := &logger{s: s, run: run, out: newPatient(w), step: r.URL.Query().Get("step"), mute: r.URL.Query().Get("text") == "false", seen: map[string]uint64{}, tools: map[string]string{}, ended: map[string]bool{}}
	var live *feed
	if follow && !run.Status.Phase.Terminal() {
		select {
		case s.followers <- struct{}{}:
			defer func() { <-s.followers }()
		default:
			fail(w, apierrors.NewTooManyRequests("too many logs are being followed: ask again later, or without follow", 10))
			return
		}
		var err error
		if live, err = s.openFeed(ctx, run); err != nil { // before what is stored is read: nothing is missed
			fail(w, err)
			return
		}
		defer live.close()
	}
	var err error
	if l.past, err = s.past(ctx, run); err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	if err = l.stored(ctx); err == nil && live != nil {
		err = l.follow(ctx, live)
	}
	if err != nil && ctx.Err() == nil {
		s.log.DebugContext(ctx, "a log was not sent whole", "run", run.Namespace+"/"+run.Name, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// logger writes the log of one run for one client.
type logger struct {
	s    *Server
	run  *v1alpha1.ArkRun
	past *runner.Past
	out  *patient
	step string // only this one; empty for all
	mute bool   // without what models and tools said

	seen  map[string]uint64 // by task: the last record of its journal that was written
	tools map[string]string // names of tools by task and id of the call
	ended map[string]bool   // tasks whose end was written
}

// stored writes what the stores hold.
func (l *logger) stored(ctx context.Context) error {
	if err := l.inOrder(ctx, l.past.Tasks()); err != nil {
		return err
	}
	if l.run.Status.Phase.Terminal() {
		if err := l.runEnded(); err != nil {
			return err
		}
	}
	return l.out.flush()
}

// task is what is new of a task: the lines of its journal, and its result.
func (l *logger) task(ctx context.Context, t runner.PastTask) ([]data.Entry, error) {
	if l.step != "" && t.Step != l.step || t.Team != "" {
		return nil, nil
	}
	lines, err := work.ReadJournal(ctx, l.s.cfg.Queue, t.Key, maxLogEntry)
	if err != nil {
		return nil, err
	}
	var out []data.Entry
	for _, line := range lines {
		if line.Seq > l.seen[t.Key.TaskID] {
			out = append(out, l.entries(t, line)...)
		}
	}
	if len(lines) > 0 {
		l.seen[t.Key.TaskID] = lines[len(lines)-1].Seq
	}
	if !t.Done || l.ended[t.Key.TaskID] {
		return out, nil
	}
	result, err := l.s.cfg.Queue.Result(ctx, t.Key)
	if errors.Is(err, queue.ErrNoResult) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	l.ended[t.Key.TaskID] = true
	return append(out, endOf(t, result)), nil
}

func endOf(t runner.PastTask, r *task.Result) data.Entry {
	e := entryOf(t, data.EntryEnded, r.Completed)
	e.Pod, e.Phase, e.Tokens = r.Pod, string(r.Status), r.Usage.Total()
	if r.Error != nil {
		e.Error, e.Reason, e.Text = true, string(r.Error.Code), r.Error.Message
	}
	return e
}

func entryOf(t runner.PastTask, kind data.EntryKind, at time.Time) data.Entry {
	return data.Entry{Kind: kind, At: at, Step: t.Step, Task: t.Key.TaskID, Agent: t.Key.Agent}
}

// entries are what a line of a journal says.
func (l *logger) entries(t runner.PastTask, line work.Line) []data.Entry {
	e := entryOf(t, "", line.At)
	e.Pod = line.Pod
	switch {
	case line.TakenOver:
		e.Kind = data.EntryStarted
	case line.Released:
		e.Kind = data.EntryReleased
	case line.Entry.Intent != nil:
		e.Kind, e.Call, e.Model = data.EntryCall, line.Entry.Intent.Call, line.Entry.Intent.Model
	case line.Entry.Answer != nil:
		return l.answer(t, e, line.Entry.Answer)
	case line.Entry.Failed != nil:
		f := line.Entry.Failed
		e.Kind, e.Call, e.Error, e.Reason, e.Text, e.Tokens = data.EntryFailed, f.Call, true, string(f.Code), f.Message, f.Charged
	case line.Entry.ToolStart != nil:
		return nil // the answer that asked for it has said so, with its arguments
	case line.Entry.ToolEnd != nil:
		end := line.Entry.ToolEnd
		e.Kind, e.ID, e.Text, e.Error = data.EntryToolDone, end.ID, end.Text, end.IsError
		e.Tool = l.tools[t.Key.TaskID+"/"+end.ID]
	default:
		e.Kind, e.Text = data.EntryNote, line.Entry.Note
	}
	return []data.Entry{e}
}

// response is what is shown of a model's answer.
type response struct {
	Message struct {
		Text      string `json:"text"`
		ToolCalls []struct {
			ID        string `json:"id"`
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"toolCalls"`
	} `json:"message"`
	Whole *task.Ref `json:"whole"` // of a text of which the message has only the beginning
}

// answer is a model's answer, and the tools that it asks for.
func (l *logger) answer(t runner.PastTask, e data.Entry, a *work.Answer) []data.Entry {
	e.Kind, e.Call, e.Tokens = data.EntryAnswer, a.Call, a.Usage.Total()
	e.InputTokens, e.OutputTokens = a.Usage.InputTokens, a.Usage.OutputTokens
	var r response
	if len(a.Response) == 0 || json.Unmarshal(a.Response, &r) != nil {
		e.Cut = true // it is too long to be shown, or was lost
		return []data.Entry{e}
	}
	e.Text, e.Cut = r.Message.Text, r.Whole != nil
	out := []data.Entry{e}
	for _, c := range r.Message.ToolCalls {
		l.tools[t.Key.TaskID+"/"+c.ID] = c.Name
		tool := e
		tool.Cut = false
		tool.Kind, tool.Tool, tool.ID, tool.Text = data.EntryTool, c.Name, c.ID, c.Arguments
		tool.Tokens, tool.InputTokens, tool.OutputTokens = 0, 0, 0
		out = append(out, tool)
	}
	return out
}

func (l *logger) runEnded() error {
	s := &l.run.Status
	e := data.Entry{Kind: data.EntryRunEnded, Phase: string(s.Phase), Text: s.Message, Error: s.Phase != v1alpha1.RunSucceeded}
	if s.CompletionTime != nil {
		e.At = s.CompletionTime.Time
	}
	if s.TotalTokenUsage != nil {
		e.Tokens = s.TotalTokenUsage.TotalTokens
	}
	return l.write(e)
}

// said says that the text of an entry is what a model or a tool said, or was told.
func said(k data.EntryKind) bool {
	return k == data.EntryAnswer || k == data.EntryTool || k == data.EntryToolDone
}

func (l *logger) write(e data.Entry) error {
	if l.mute && said(e.Kind) {
		e.Text = ""
	}
	if len(e.Text) > maxLogText {
		e.Text, e.Cut = chars.Head(e.Text, maxLogText), true
	}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = l.out.Write(append(body, '\n'))
	return err
}
