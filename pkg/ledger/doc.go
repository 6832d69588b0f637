// Package ledger is the arithmetic of token budgets: reservations that are open, tokens that are spent, and the
// rolling window in which they count. It is pure: no I/O, no clock, no goroutine.
//
// A State is one budget. Its rule is
//
//	spent + reserved <= limit
//
// for every reservation that is granted, where spent are the tokens charged within the window and reserved the sum of
// all open reservations. A reservation is an upper bound of what a call can use, so the sum of what calls use never
// passes the limit, not by one token, however many calls are under way. Only a call that uses more than it reserved
// can break the rule: what it used is charged all the same, and whatever follows is refused.
//
// Time comes from the caller and should be the broker's, so that all who charge a budget agree on it. Tokens are
// charged to slots of a fraction of the window, and a slot counts until all of it is out of the window: a token counts
// at least as long as the window, and at most 1/48 of it longer. Nothing is forgotten because of what the clock says, at
// one moment or for long: set back, it finds the tokens of the earlier time still there and those of the later time
// counting longer; set forward by mistake and back again, the tokens that seemed to be out of the window are in it
// again, however much was charged meanwhile. So the window never opens early, whatever the clock does.
//
// The price is that it may open late after a clock was set. A state keeps two windows of slots, and what is older or
// further ahead is joined with the slot that follows it: set back by more than a window, a budget may count tokens that
// are older than the window, until the clock is within a window of where it was. A clock that only goes on never sees
// that.
package ledger
