// Package work is the work service and its client: how an agent gets at a task and everything that the task does and
// pays for.
//
// An agent touches the queue only to take its tasks and to publish their results. Everything else it asks of the
// service: to take a task over, to append to its journal, to reserve tokens and to settle them, to hand work to other
// roles and wait for it, to store and read payloads. The service is the only writer of the ledger stream.
//
// # The journal
//
// Each task has a journal: a subject whose messages are records of entries. A take-over begins a new epoch and fences
// the earlier ones, so that of two processes that hold one task only the later one appends. Entries that account for
// model calls move the task's budgets, and the journal and all budgets that an append touches change in one atomic
// batch:
//
//	Intent   reserves tokens in every budget of the task; it must be stored before the call is made
//	Answer   settles the reservation with what was used
//	Failed   settles it too: with what is known to be used, or in full when nobody knows
//
// An Intent without an outcome that a take-over finds is charged in full and marked as failed with Unknown set. So is
// one that is still open a while after the task got its result.
//
// Reservations that do not fit are refused with a *BudgetError at once when spent tokens stand in the way. Those that
// only other open reservations stand in the way of wait their turn, first come first served, until the context of the
// caller ends.
//
// # Requests
//
// Every request can be sent again, and the client does so when no answer comes: take-overs and appends carry ids that
// are journaled, delegated work has derived ids, payloads are named by their content. A service keeps nothing that it
// could not read from the streams again; when it is killed, the next one goes on, and two of them at once are
// harmless, because every batch carries the sequences that it expects.
//
// All types are safe for concurrent use.
package work
