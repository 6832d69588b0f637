package controller

// lanes is the order in which keys are reconciled: those that are preferred before the others, and within both in the order
// in which they came. Every turn-th one is of the others, if there are any, so that nobody waits for ever. The queue that
// it is in guards it.
type lanes struct {
	prefer      func(Key) bool // nil: all are alike
	first, rest lane
	taken       int // of first since the last one of rest
}

// turn is how many keys are reconciled for one that is not preferred, when both are waiting.
const turn = 8

// Touch implements workqueue.Queue: a key keeps its place.
func (l *lanes) Touch(Key) {}

// Push implements workqueue.Queue.
func (l *lanes) Push(k Key) {
	if l.prefer != nil && l.prefer(k) {
		l.first.push(k)
		return
	}
	l.rest.push(k)
}

// Len implements workqueue.Queue.
func (l *lanes) Len() int { return len(l.first) + len(l.rest) }

// Pop implements workqueue.Queue.
func (l *lanes) Pop() Key {
	if len(l.first) > 0 && (len(l.rest) == 0 || l.taken < turn-1) {
		l.taken++
		return l.first.pop()
	}
	l.taken = 0
	return l.rest.pop()
}

type lane []Key

func (l *lane) push(k Key) { *l = append(*l, k) }

func (l *lane) pop() Key {
	k := (*l)[0]
	(*l)[0] = Key{}
	*l = (*l)[1:]
	return k
}
