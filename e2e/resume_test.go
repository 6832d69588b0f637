package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
)

// killRounds is how many runs are killed; each at one random moment, some a second time while they resume.
const killRounds = 200

const killTeam = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: relay}
spec:
  inputs: [{name: round, required: true}]
  roles:
    - {name: planner, model: small, systemPrompt: You plan.}
    - {name: worker, model: small, systemPrompt: You work.}
    - {name: closer, model: small, systemPrompt: You close.}
  pipeline:
    - {role: planner, inputs: {prompt: "plan of {{ .input.round }}"}}
    - {name: left, role: worker, dependsOn: [planner], inputs: {prompt: "left of {{ .input.round }}", plan: "{{ .steps.planner.output }}"}}
    - {name: right, role: worker, dependsOn: [planner], inputs: {prompt: "right of {{ .input.round }}", plan: "{{ .steps.planner.output }}"}}
    - {role: closer, dependsOn: [left, right], inputs: {prompt: "end of {{ .input.round }}", l: "{{ .steps.left.output }}", r: "{{ .steps.right.output }}"}}
`

// report is the part of ark run --output json that the test reads.
type report struct {
	Status string `json:"status"`
	Output string `json:"output"`
	Tokens struct {
		UnknownCalls int `json:"unknownCalls"`
	} `json:"tokens"`
}

// Processes are killed with SIGKILL at random moments of a run and go on with --resume. Every run ends, and the model
// server's own log shows no second call for one whose answer was journaled: a call that stands there twice is one
// that was on its way when the process died, and the run's report counts it as a call of unknown outcome. The moments
// begin when the run is recorded, which the process says on stderr.
func TestKillAndResume(t *testing.T) {
	t.Parallel()
	k := newKillTest(t)
	k.calibrate()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, an undisturbed run takes %s", seed, k.length)

	var wg sync.WaitGroup
	rounds := make(chan int)
	for worker := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(worker)))
			for round := range rounds {
				k.round(round, rng)
			}
		})
	}
	for round := range killRounds {
		rounds <- round
	}
	close(rounds)
	wg.Wait()
	t.Logf("%d runs, %d kills, %d calls of unknown outcome, %d of them had reached the server", killRounds, k.kills, k.unknown, k.repeated)
	require.Greater(t, k.kills, killRounds/2, "most kills must hit a live run, or the test shows nothing")
	require.Positive(t, k.repeated, "some kills must hit a call on its way, or the test shows nothing")
}

type killTest struct {
	t        *testing.T
	ark      string
	team     string
	server   *modelserver.Server
	mu       sync.Mutex
	length   time.Duration // of the shortest run so far that nobody killed, from its record to its end
	kills    int
	unknown  int
	repeated int
}

func newKillTest(t *testing.T) *killTest {
	k := &killTest{t: t, ark: arkBinary(t), team: filepath.Join(t.TempDir(), "team.yaml")}
	require.NoError(t, os.WriteFile(k.team, []byte(killTeam), 0o600))
	var err error
	k.server, err = modelserver.Start(t.Context(), modelserver.Config{Delay: 10 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { _ = k.server.Close() })
	return k
}

func (k *killTest) run(store, round string) *process {
	return command(k.t.Context(), k.ark, k.env(), "run", k.team, "--store", store, "--input", "round="+round, "--output", "json")
}

func (k *killTest) resume(store string) *process {
	return command(k.t.Context(), k.ark, k.env(), "run", "--store", store, "--resume", "@latest", "--output", "json")
}

func (k *killTest) env() []string { return []string{"OPENAI_BASE_URL=" + k.server.URL()} }

// calibrate measures undisturbed runs.
func (k *killTest) calibrate() {
	for i := range 3 {
		p := k.run(k.t.TempDir(), fmt.Sprintf("calibration-%d", i))
		require.NoError(k.t, p.Start())
		<-p.spoke
		start := time.Now()
		require.NoError(k.t, p.Wait(), p.err.String())
		k.measured(time.Since(start))
	}
}

// measured takes in how long an undisturbed run took: the machine may have less to do by now.
func (k *killTest) measured(d time.Duration) {
	k.count(func() {
		if k.length == 0 || d < k.length {
			k.length = d
		}
	})
}

// moment is one of a run, at random.
func (k *killTest) moment(rng *rand.Rand) (d time.Duration) {
	k.count(func() { d = time.Duration(rng.Int64N(int64(k.length))) })
	return d
}

// round starts a run, kills it at a random moment, and resumes it, possibly killed again, until it ends.
func (k *killTest) round(n int, rng *rand.Rand) {
	name := fmt.Sprintf("round-%03d.", n)
	store := filepath.Join(k.t.TempDir(), "store")
	p := k.run(store, name)
	killed, took := k.killAfter(p, k.moment(rng))
	if !killed && took > 0 {
		k.measured(took)
	}
	for again := 0; killed; again++ {
		p = k.resume(store)
		if again < 2 && rng.IntN(3) == 0 {
			killed, _ = k.killAfter(p, k.moment(rng))
		} else {
			_ = p.Run()
			killed = false
		}
	}
	k.check(name, p)
}

func (k *killTest) count(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// killAfter starts the process and kills it a while after its run was recorded. It reports whether the process died of that,
// and how long it took from then on if it ended well.
func (k *killTest) killAfter(p *process, after time.Duration) (killed bool, took time.Duration) {
	if err := p.Start(); err != nil {
		k.t.Error(err)
		return false, 0
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	var began time.Time // after watched; zero for a process that said nothing
	go func() {
		defer close(watched)
		select {
		case <-p.spoke:
			began = time.Now()
		case <-ended:
			return
		}
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
			_ = p.Process.Kill()
		case <-ended:
		}
	}()
	err := p.Wait()
	close(ended)
	<-watched
	if err == nil && !began.IsZero() {
		took = time.Since(began)
	}
	status, ok := p.ProcessState.Sys().(syscall.WaitStatus)
	killed = ok && status.Signaled()
	if killed {
		k.count(func() { k.kills++ })
	}
	return killed, took
}

// check holds the end of a run against the server's log.
func (k *killTest) check(name string, p *process) {
	var r report
	if err := json.Unmarshal(p.out.Bytes(), &r); err != nil {
		k.t.Errorf("%s: no report: %v\n%s%s", name, err, p.out.String(), p.err.String())
		return
	}
	if r.Status != "Succeeded" || !strings.Contains(r.Output, "end of "+name) {
		k.t.Errorf("%s ended %s with %q\n%s", name, r.Status, r.Output, p.err.String())
	}
	again := 0
	for body, calls := range k.callsOf(name) {
		again += len(calls) - 1
		for _, c := range calls[:len(calls)-1] {
			// Whatever came after in the same run proves that the answer had been used.
			if c.Whole && k.usedBefore(name, c, calls) {
				k.t.Errorf("%s: an answered call was made again: %s", name, body)
			}
		}
	}
	k.count(func() { k.repeated += again; k.unknown += r.Tokens.UnknownCalls })
	// A process may also die after it promised a call and before the call left it: then the server saw it once.
	if again > r.Tokens.UnknownCalls {
		k.t.Errorf("%s: the server saw %d calls again, the report counts %d of unknown outcome", name, again, r.Tokens.UnknownCalls)
	}
}

// callsOf groups the calls of one run by what they asked, oldest first.
func (k *killTest) callsOf(name string) map[string][]modelserver.Call {
	out := map[string][]modelserver.Call{}
	for _, c := range k.server.Calls() {
		if strings.Contains(c.Request.Prompt(), name) {
			out[string(c.Body)] = append(out[string(c.Body)], c)
		}
	}
	return out
}

// usedBefore says whether a call that needs the answer of c came in between c and its repetition.
func (k *killTest) usedBefore(name string, c modelserver.Call, same []modelserver.Call) bool {
	next := same[slices.IndexFunc(same, func(o modelserver.Call) bool { return o.N == c.N })+1]
	return slices.ContainsFunc(k.server.Calls(), func(o modelserver.Call) bool {
		needs := strings.Contains(o.Request.Prompt(), name) && strings.Contains(o.Request.Prompt(), modelserver.Echo(c.Request))
		return needs && o.N > c.N && o.N < next.N
	})
}
