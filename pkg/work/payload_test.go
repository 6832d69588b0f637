package work_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestPayloadsOfAnySize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	s := w.take(w.task())
	for _, size := range []int{0, 1, 32 << 10, 32<<10 + 1, 512 << 10, 512<<10 + 1, 5 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		stored, err := s.PutPayload(t.Context(), string(body))
		require.NoError(t, err)
		if size <= 32<<10 {
			require.Equal(t, task.Text{Inline: string(body)}, stored)
			continue
		}
		again, err := s.PutPayload(t.Context(), string(body))
		require.NoError(t, err)
		require.Equal(t, stored, again)
		require.Equal(t, int64(size), stored.Ref.Size)
		require.Equal(t, string(body[:1024]), stored.Ref.Preview)
		var back []byte
		for len(back) < size {
			part, err := s.GetPayload(t.Context(), *stored.Ref, int64(len(back)), 1<<20)
			require.NoError(t, err)
			require.NotEmpty(t, part)
			back = append(back, part...)
		}
		require.True(t, bytes.Equal(body, back))
		part, err := s.GetPayload(t.Context(), *stored.Ref, int64(size), 10)
		require.NoError(t, err)
		require.Empty(t, part)
		part, err = s.GetPayload(t.Context(), *stored.Ref, 7, 5)
		require.NoError(t, err)
		require.Equal(t, "789ab", string(part))
	}
	stored, err := s.PutPayload(t.Context(), string(noise(100)))
	require.NoError(t, err)
	require.NotNil(t, stored.Ref, "what is no text is not inline")
}

// A store that is full loses upload after upload. Whoever asks may ask again, as what was lost does not count for what a run may
// store; once there is space, the body is stored.
func TestLostUploadsCanBeRepeated(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, work.Config{})
	open := func(payloads int64) *queue.Queue {
		limits := queue.LimitsOf(queue.DefaultMemoryBytes)
		limits.Payloads = payloads
		q, err := queue.Open(t.Context(), w.connect(), queue.Config{Storage: w.storage, Logger: quiet(), Timeout: time.Minute, Limits: limits})
		require.NoError(t, err)
		return q
	}
	w.serveOn(open(32 << 20))
	s := w.take(w.task())
	body := string(noise(64 << 20))
	for range 8 { // of three uploads each: more than a run may store
		_, err := s.PutPayload(t.Context(), body)
		require.ErrorIs(t, err, work.ErrUnavailable)
	}
	open(256 << 20)
	stored, err := s.PutPayload(t.Context(), body)
	require.NoError(t, err)
	require.Equal(t, int64(len(body)), stored.Ref.Size)
}

func TestPayloadsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	other, err := w.queue.PutPayload(t.Context(), "run-2", strings.NewReader("secret"))
	require.NoError(t, err)
	s := w.take(w.task())
	missing := other
	missing.Key = "run-1/" + missing.SHA256
	for _, ref := range []task.Ref{other, missing, {}, {Key: "run-1/x", SHA256: "y"}} {
		_, err := s.GetPayload(t.Context(), ref, 0, 10)
		var refused *work.RefusedError
		require.ErrorAs(t, err, &refused, "%+v", ref)
	}
	_, err = s.GetPayload(t.Context(), missing, -1, 10)
	require.Error(t, err)
}

// A journal of entries of any size comes back as it was, in as many pages as it takes.
func TestLargeJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	stop := w.serve()
	tk := w.task(runBudget(1 << 40))
	s := w.take(tk)
	response, err := json.Marshal(string(bytes.Repeat([]byte("wörter "), 20<<10)))
	require.NoError(t, err)
	var want []work.Entry
	for call := 1; call <= 8; call++ {
		batches := [][]work.Entry{{intent(call, 1000)}, {{Answer: &work.Answer{Call: call, Response: response, Usage: task.Usage{InputTokens: 7}}}}}
		var ends []work.Entry
		for i := range 30 {
			ends = append(ends, toolEnd(fmt.Sprintf("%d.%d", call, i), strings.Repeat("é", 15<<10)+fmt.Sprint(i)))
		}
		ends = append(ends, work.Entry{Note: strings.Repeat("n", 40<<10)},
			work.Entry{ToolEnd: &work.ToolEnd{ID: "big", Text: strings.Repeat("x", 2<<20), IsError: true}})
		for _, entries := range append(batches, ends) {
			appends(t, s, entries...)
			want = append(want, entries...)
		}
	}
	stop()
	w.serve()
	again, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Len(t, again.Journal(), len(want))
	for i := range want {
		require.Equal(t, want[i], again.Journal()[i], "entry %d", i)
	}
	w.stands("run.run-1", 56, 0)
}

func TestWhatIsNoEntryIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	s := w.take(w.task())
	for _, entries := range [][]work.Entry{
		{{}},
		{{Note: "x", ToolStart: &work.ToolStart{}}},
		{intent(0, 1)},
		{intent(1, -1)},
		{failed(1, -1)},
		{{Answer: &work.Answer{Call: 1, Response: json.RawMessage(`{`)}}},
		{answer(1, 5)},
		{failed(7, 5)},
		{intent(1, 1), intent(2, 1)},
		{intent(1, 1), failed(1, 1)},
	} {
		require.Error(t, s.Append(t.Context(), entries...), "%+v", entries)
	}
	appends(t, s, intent(2, 1))
	require.Error(t, s.Append(t.Context(), intent(2, 1)), "calls are numbered")
	require.NoError(t, s.Append(t.Context()))
	appends(t, s, failed(2, 0))
}
