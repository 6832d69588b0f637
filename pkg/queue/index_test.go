package queue

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestIndexIsTheSameWithoutWhatWasRemoved plays random commits against a log that loses removed records, also when the
// removal stops half-way, and folds that log anew after each.
func TestIndexIsTheSameWithoutWhatWasRemoved(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		live, log := newIndex(), map[uint64]record{}
		model := map[string][]ref{}
		for seq := uint64(1); seq <= uint64(rapid.IntRange(1, 40).Draw(t, "records")); seq++ {
			r := record{seq: seq, parts: drawParts(t)}
			log[seq] = r
			live.apply(r)
			remember(model, r)
			stop := rapid.IntRange(0, 6).Draw(t, "removals")
			_ = live.remove(func(seq uint64) error {
				if stop--; stop < 0 {
					return errors.New("killed")
				}
				if _, ok := log[seq]; !ok {
					t.Fatalf("record %d was removed twice", seq)
				}
				delete(log, seq)
				return nil
			})
			require.Equal(t, model, live.subjects)
			require.Equal(t, model, fold(log).subjects)
		}
		require.NoError(t, live.remove(func(seq uint64) error { delete(log, seq); return nil }))
		for seq, r := range log {
			forgets := slices.ContainsFunc(r.parts, func(p part) bool { return p.kind == partForget })
			require.True(t, forgets || live.uses[seq] > 0, "record %d is of no use and was kept", seq)
		}
	})
}

// drawParts draws what one commit may hold: writes, replacing only what was there before it, or runs to forget.
func drawParts(t *rapid.T) []part {
	runs := rapid.SampledFrom([]string{"0", "1", "2"})
	if rapid.IntRange(0, 4).Draw(t, "forget") == 0 {
		var parts []part
		for _, run := range rapid.SliceOfNDistinct(runs, 1, 2, rapid.ID).Draw(t, "runs") {
			parts = append(parts, part{kind: partForget, subject: run})
		}
		return parts
	}
	seen := map[string]bool{}
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) part {
		run := runs.Draw(t, "run")
		subject := rapid.SampledFrom([]string{
			"ark.call.ns.agent." + run + ".task", "ark.budget.ns.run." + run, "ark.budget.ns.step." + run + ".a", "ark.budget.ns.agent.a",
		}).Draw(t, "subject")
		p := part{kind: rapid.SampledFrom([]byte{partAppend, partState}).Draw(t, "kind"), subject: subject}
		if seen[subject] {
			p.kind = partAppend
		}
		seen[subject] = true
		return p
	}), 1, 4).Draw(t, "parts")
}

// remember is the index without its bookkeeping.
func remember(model map[string][]ref, r record) {
	for i, p := range r.parts {
		switch p.kind {
		case partForget:
			for subject := range model {
				if ownerOf(subject) == p.subject {
					delete(model, subject)
				}
			}
			continue
		case partState:
			delete(model, p.subject)
		}
		model[p.subject] = append(model[p.subject], refAt(r.seq, i))
	}
}

func fold(log map[uint64]record) *index {
	x := newIndex()
	for _, seq := range slices.Sorted(func(yield func(uint64) bool) {
		for seq := range log {
			if !yield(seq) {
				return
			}
		}
	}) {
		x.apply(log[seq])
	}
	return x
}

func FuzzRecord(f *testing.F) {
	f.Add(encodeRecord(nil))
	f.Add(encodeRecord([]part{{partAppend, "ark.call.a.b.c.d", []byte("body")}, {partForget, "run", nil}}))
	f.Add([]byte{recordVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{recordVersion, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(1, time.Time{}, data)
		if err != nil {
			return
		}
		again, err := decodeRecord(1, time.Time{}, encodeRecord(r.parts))
		require.NoError(t, err)
		require.Equal(t, len(r.parts), len(again.parts))
		for i, p := range r.parts {
			require.Equal(t, p.kind, again.parts[i].kind)
			require.Equal(t, p.subject, again.parts[i].subject)
			require.Equal(t, string(p.body), string(again.parts[i].body))
		}
	})
}
