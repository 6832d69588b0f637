package task_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/task"
)

func fullTask() task.Task {
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	return task.Task{
		Version: task.Version, ID: "id", Kind: task.KindStep, Namespace: "default", Agent: "writer",
		Run:  task.Run{UID: "uid", Name: "run", Team: "team"},
		Step: "write", Role: "writer", Prompt: task.Text{Inline: `a "quoted" [{text,:`}, Deadline: at, Created: at,
		OutputSchema: json.RawMessage(`{"type":"object"}`),
		Budgets:      []task.Budget{{Scope: "run.uid", Limit: 10}},
		Roles:        map[string]task.Role{"editor": {Agent: "editor", CanDelegate: []string{"writer"}}},
		Ancestry:     []task.Ancestor{{Task: "a", Role: "b"}},
	}
}

func TestDecodeReadsWhatWasWritten(t *testing.T) {
	t.Parallel()
	want := fullTask()
	body, err := json.Marshal(want)
	require.NoError(t, err)
	got, err := task.Decode[task.Task](body)
	require.NoError(t, err)
	require.Equal(t, &want, got)
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return `{"v":1,"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}" }
	cases := map[string]struct {
		body string
		want error
		says string
	}{
		"empty":            {body: "", says: "unexpected end"},
		"not JSON":         {body: "{]", says: "invalid character"},
		"two values":       {body: `{"v":1} {}`, says: "invalid character"},
		"another type":     {body: `{"v":1,"id":7}`, says: "cannot unmarshal"},
		"no version":       {body: `{"id":"x"}`, want: task.ErrVersion},
		"newer":            {body: `{"v":2,"id":"x"}`, want: task.ErrVersion},
		"newer, new types": {body: `{"v":2,"id":{"uid":1}}`, want: task.ErrVersion},
		"negative version": {body: `{"v":-1}`, want: task.ErrVersion},
		"no id":            {body: `{"v":1}`, want: task.ErrIncomplete, says: "task"},
		"no run":           {body: `{"v":1,"id":"x","kind":"step","namespace":"n","agent":"a"}`, want: task.ErrIncomplete, says: "run.uid"},
		"too deep":         {body: deep(task.MaxDepth), want: task.ErrLimit, says: "nested"},
		"too deep, open":   {body: strings.Repeat("[", 1000), want: task.ErrLimit},
		"too many keys":    {body: `{"v":1,"x":[` + strings.Repeat("1,", task.MaxKeys) + "1]}", want: task.ErrLimit, says: "keys"},
		"too large":        {body: `{"v":1,"x":"` + strings.Repeat("a", task.MaxBody) + `"}`, want: task.ErrLimit, says: "bytes"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := task.Decode[task.Task]([]byte(c.body))
			require.Nil(t, got)
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestDecodeTakesWhatIsJustWithinTheLimits(t *testing.T) {
	t.Parallel()
	body := func(x string) []byte {
		return fmt.Appendf(nil, `{"v":1,"parent":"p","child":"c","role":"r","agent":"a","x":%s}`, x)
	}
	for _, x := range []string{
		strings.Repeat("[", task.MaxDepth-1) + strings.Repeat("]", task.MaxDepth-1),
		"[" + strings.Repeat("1,", task.MaxKeys-10) + "1]",
		`"` + strings.Repeat(`[{\"`, task.MaxDepth) + `"`,
		`"` + strings.Repeat("a", task.MaxBody-100) + `"`,
	} {
		_, err := task.Decode[task.Delegated](body(x))
		require.NoError(t, err)
	}
}

func TestDecodeWantsAReasonForWhatDidNotSucceed(t *testing.T) {
	t.Parallel()
	for body, ok := range map[string]bool{
		`{"v":1,"task":"t","status":"Succeeded"}`:                           true,
		`{"v":1,"task":"t","status":"Failed"}`:                              false,
		`{"v":1,"task":"t","status":"Failed","error":{"code":"Timeout"}}`:   true,
		`{"v":1,"task":"t","status":"Cancelled"}`:                           false,
		`{"v":1,"task":"t","status":"Splendid","error":{"code":"Timeout"}}`: false,
		`{"v":1,"status":"Succeeded"}`:                                      false,
	} {
		_, err := task.Decode[task.Result]([]byte(body))
		if ok {
			require.NoError(t, err, body)
			continue
		}
		require.ErrorIs(t, err, task.ErrIncomplete, body)
	}
}

// FuzzDecode shows that no body panics a reader, and that what is read is written and read again as the same.
func FuzzDecode(f *testing.F) {
	full, err := json.Marshal(fullTask())
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(full), "", "{", "[[[[", `{"v":1}`, `{"v":1,"task":"t","status":"Failed","error":{"code":"x"}}`,
		`{"v":1,"parent":"p","child":"c","role":"r","agent":"a","at":"2026-01-01T00:00:00Z"}`, `{"v":2}`, "\x00", `{"v":1e999}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		again[task.Task](t, body)
		again[task.Result](t, body)
		again[task.Delegated](t, body)
	})
}

func again[B task.Body](t *testing.T, body []byte) {
	t.Helper()
	got, err := task.Decode[B](body)
	if err != nil {
		require.Nil(t, got)
		return
	}
	written, err := json.Marshal(got)
	require.NoError(t, err)
	if len(written) > task.MaxBody { // escapes may have made it longer
		return
	}
	back, err := task.Decode[B](written)
	require.NoError(t, err)
	require.Equal(t, mustJSON(t, got), mustJSON(t, back))
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}
