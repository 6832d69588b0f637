package work

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/ledger"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// record is one message of a journal. It is a take-over, a release, a settlement, a delegation, an append, or the end of
// an append that was given up.
type record struct {
	Version  int         `json:"v"`
	Epoch    int         `json:"epoch"`
	At       time.Time   `json:"at"`
	TakeOver *takeOver   `json:"takeOver,omitempty"`
	Release  bool        `json:"release,omitempty"`
	Settled  bool        `json:"settled,omitempty"` // by the service: calls of a task that nobody works on any more
	Delegate *delegation `json:"delegate,omitempty"`

	// Of an append: its number in the epoch, its id, whether more of its entries follow in another record, after its
	// reservation was granted, and whether its caller has given it up: nothing follows then.
	N        int    `json:"n,omitempty"`
	ID       string `json:"id,omitempty"`
	More     bool   `json:"more,omitempty"`
	Withdraw bool   `json:"withdraw,omitempty"`

	Entries []Entry  `json:"entries,omitempty"`
	Notes   []string `json:"notes,omitempty"` // of the service itself
	// Budgets are those in which an Intent of Entries is reserved.
	Budgets []task.Budget `json:"budgets,omitempty"`
}

type takeOver struct {
	ID  string `json:"id"`
	Pod string `json:"pod"`
	// Process is which one in the pod. One that takes the same task again has not died.
	Process string `json:"process,omitempty"`
	// Refused says that nobody got the task: it is over its deadline, or too many of its holders have died.
	Refused bool `json:"refused,omitempty"`
}

// delegation is work that the task handed over.
type delegation struct {
	Call   string    `json:"call"`
	Role   string    `json:"role"`
	Agent  string    `json:"agent"`
	Child  string    `json:"child"` // task id
	Number int       `json:"number"`
	Prompt task.Text `json:"prompt"`
	At     time.Time `json:"at"`
}

// reservation is an open Intent.
type reservation struct {
	reserve int64
	budgets []task.Budget
}

// journal is what a task's records amount to: enough to decide requests, without the entries themselves.
type journal struct {
	key  queue.Key
	task *task.Task // without its prompt; nil when the queue does not hold it any more
	seq  uint64     // of the last record, 0 for none
	size int        // of all records in bytes

	done bool // the task has a result

	epoch     int
	taker     string          // id of the last take-over
	takers    map[string]bool // ids of all
	takenAt   time.Time
	takeOvers int
	pod       string    // of the last take-over
	at        time.Time // of the last record
	process   string    // of the last take-over
	crashes   int       // take-overs of a task that another process had and did not release
	released  bool

	appended  int    // number of the last append of the epoch
	appendID  string // its id
	have      int    // how many of its entries are stored
	more      bool   // not all of them
	withdrawn bool   // and no more will be: its caller has given it up

	lastCall int
	open     map[int]reservation
	usage    task.Usage             // of all calls that have ended
	settled  bool                   // by the service, and nothing was added since
	children map[string]*delegation // by call
	byID     map[string]*delegation // by task id

	// Known to this process only: whether a turn has changed the journal and is not stored yet, when it was last used,
	// and what is closed when no call is open any more or the journal has to be read again; nil when nobody waits for
	// that.
	writing bool
	used    time.Time
	closed  chan struct{}
}

func newJournal(key queue.Key) *journal {
	return &journal{key: key, takers: map[string]bool{}, open: map[int]reservation{}, children: map[string]*delegation{}, byID: map[string]*delegation{}}
}

// apply folds a record. Records that are being stored and those that are read again go the same way.
func (j *journal) apply(r *record) {
	j.settled, j.at = r.Settled, r.At
	switch {
	case r.TakeOver != nil:
		j.applyTakeOver(r)
	case r.Release:
		j.released = true
	case r.Settled:
	case r.Delegate != nil:
		j.children[r.Delegate.Call] = r.Delegate
		j.byID[r.Delegate.Child] = r.Delegate
	default:
		j.applyAppend(r)
	}
	for _, e := range r.Entries {
		j.applyEntry(e, r)
	}
	if len(j.open) == 0 {
		j.tell()
	}
}

// tell wakes those who wait for the open calls to end.
func (j *journal) tell() {
	if j.closed != nil {
		close(j.closed)
		j.closed = nil
	}
}

func (j *journal) applyTakeOver(r *record) {
	if j.died(r.TakeOver.Process) {
		j.crashes++
	}
	j.epoch, j.taker, j.pod, j.process, j.released = r.Epoch, r.TakeOver.ID, r.TakeOver.Pod, r.TakeOver.Process, false
	j.appended, j.appendID, j.have, j.more, j.withdrawn = 0, "", 0, false, false
	if r.TakeOver.Refused {
		j.taker = ""
		return
	}
	j.takers[j.taker] = true
	j.takeOvers++
	if j.key.RunUID == ProbeRun {
		j.takenAt, j.lastCall = r.At, 0 // each probe begins anew, as nothing is kept of the one before
	}
	if j.takenAt.IsZero() {
		j.takenAt = r.At
	}
}

// died says that the process that had the task must have died, as another one takes it over.
func (j *journal) died(taker string) bool {
	return j.epoch > 0 && !j.released && (taker == "" || taker != j.process)
}

func (j *journal) applyAppend(r *record) {
	if r.N != j.appended {
		j.have = 0
	}
	j.appended, j.appendID, j.more, j.withdrawn = r.N, r.ID, r.More, r.Withdraw
	j.have += len(r.Entries)
}

func (j *journal) applyEntry(e Entry, r *record) {
	switch {
	case e.Intent != nil:
		j.lastCall = max(j.lastCall, e.Intent.Call)
		j.open[e.Intent.Call] = reservation{e.Intent.Reserve, r.Budgets}
	case e.Answer != nil:
		j.usage = j.usage.Add(e.Answer.Usage)
		delete(j.open, e.Answer.Call)
	case e.Failed != nil:
		j.usage = j.usage.Add(e.Failed.Cost(j.open[e.Failed.Call].reserve))
		delete(j.open, e.Failed.Call)
	}
}

// openCalls are the calls without an outcome, in order.
func (j *journal) openCalls() []int { return slices.Sorted(maps.Keys(j.open)) }

// unknown are the entries that end all open calls: nobody knows what became of them.
func (j *journal) unknown() []Entry {
	var entries []Entry
	for _, call := range j.openCalls() {
		entries = append(entries, Entry{Failed: &CallFailed{
			Call: call, Code: task.CodeProviderFailed, Charged: j.open[call].reserve, Unknown: true,
			Message: "the outcome of the call is unknown: its process was interrupted; all that was reserved is charged",
		}})
	}
	return entries
}

// full says that the journal takes nothing more from a holder of the task.
func (j *journal) full() bool { return j.size > journalLimit }

// ended returns the call that an entry ends, and what is to be charged for it.
func (j *journal) ended(e Entry) (call int, charge, output int64, ok bool) {
	switch {
	case e.Answer != nil:
		return e.Answer.Call, e.Answer.Usage.Total(), e.Answer.Usage.OutputTokens, true
	case e.Failed != nil && e.Failed.Unknown:
		return e.Failed.Call, max(e.Failed.Charged, j.open[e.Failed.Call].reserve), 0, true
	case e.Failed != nil:
		return e.Failed.Call, e.Failed.Charged, 0, true
	default:
		return 0, 0, 0, false
	}
}

// fold reads a journal's messages. The entries are those of all records, in order, with the service's notes.
func fold(key queue.Key, stored []queue.Stored) (*journal, error) {
	j := newJournal(key)
	for _, s := range stored {
		r, err := readRecord(s)
		if err != nil {
			return nil, err
		}
		j.apply(r)
		j.seq = s.Seq
		j.size += len(s.Body)
	}
	return j, nil
}

func readRecord(s queue.Stored) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(s.Body, r); err != nil {
		return nil, fmt.Errorf("journal %s at %d: %w", s.Subject, s.Seq, err)
	}
	if r.Version < 1 || r.Version > task.Version {
		return nil, fmt.Errorf("journal %s at %d: %w: %d", s.Subject, s.Seq, task.ErrVersion, r.Version)
	}
	return r, nil
}

// entries are what the holder of a task sees of a record.
func (r *record) entries() []Entry {
	all := r.Entries
	for _, n := range r.Notes {
		all = append(slices.Clip(all), Entry{Note: n})
	}
	return all
}

// pageOf is the entries of as many messages as fit into one answer; the first one always fits.
func pageOf(stored []queue.Stored) (page, error) {
	var p page
	size := 0
	for i, s := range stored {
		size += len(s.Body)
		if i > 0 && size > pageLimit {
			p.Next = s.Seq
			return p, nil
		}
		r, err := readRecord(s)
		if err != nil {
			return page{}, err
		}
		p.Entries = append(p.Entries, r.entries()...)
	}
	return p, nil
}

// ledgerHolder is how a reservation of a call is known in the state of a budget.
func ledgerHolder(k queue.Key, call int) string {
	return strings.Join([]string{queue.Token(k.Agent), queue.Token(k.RunUID), queue.Token(k.TaskID), strconv.Itoa(call)}, ".")
}

// holderKey is the reverse of ledgerHolder.
func holderKey(namespace, holder string) (k queue.Key, call int, ok bool) {
	parts := strings.Split(holder, ".")
	if len(parts) != 4 {
		return queue.Key{}, 0, false
	}
	k.Namespace = namespace
	var err error
	for i, to := range []*string{&k.Agent, &k.RunUID, &k.TaskID} {
		if *to, err = queue.Untoken(parts[i]); err != nil {
			return queue.Key{}, 0, false
		}
	}
	call, err = strconv.Atoi(parts[3])
	return k, call, err == nil
}

// reservedIn are the budgets in which open calls have reserved.
func (j *journal) reservedIn() []scopeKey {
	var keys []scopeKey
	for _, r := range j.open {
		for _, b := range r.budgets {
			if key := (scopeKey{j.key.Namespace, b.Scope}); !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// Budget is the stored state of a budget: the body of a message on queue.BudgetSubject.
type Budget struct {
	Version int           `json:"v"`
	Scope   string        `json:"scope"`
	State   *ledger.State `json:"state"`
}

// DecodeBudget reads the body of a message on a budget's subject.
func DecodeBudget(body []byte) (*Budget, error) {
	b := &Budget{State: new(ledger.State)}
	if err := json.Unmarshal(body, b); err != nil {
		return nil, fmt.Errorf("decode budget: %w", err)
	}
	if b.Version < 1 || b.Version > task.Version || b.State == nil {
		return nil, fmt.Errorf("decode budget %q: %w", b.Scope, task.ErrVersion)
	}
	return b, nil
}

// scopeKey names a budget.
type scopeKey struct{ namespace, scope string }

// scope is a budget as this process knows it.
type scope struct {
	key   scopeKey
	state *ledger.State
	seq   uint64 // of the stored state, 0 for none
	used  time.Time
	// writing says that a turn has changed the state and is not stored yet.
	writing bool
}

func limitOf(b task.Budget) ledger.Limit {
	return ledger.Limit{Tokens: b.Limit, Window: time.Duration(b.Window) * time.Second}
}

func (s *scope) encode() ([]byte, error) {
	return json.Marshal(Budget{Version: task.Version, Scope: s.key.scope, State: s.state})
}

func newScope(key scopeKey) *scope {
	return &scope{key: key, state: new(ledger.State), used: time.Now()}
}
