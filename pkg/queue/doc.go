// Package queue is ark's durable transport over NATS JetStream: the embedded server, the streams, tasks and their
// delivery, results, large payloads, hints, and atomic batches for the ledger.
//
// Every fact has one home:
//
//	ARK_TASKS     ark.task.<ns>.<agent>.<task id>               work queue, one message per subject
//	ARK_RESULTS   ark.result.<ns>.<agent>.<run uid>.<task id>   the first result of a task wins, the stream refuses others
//	              ark.delegated.<ns>.<agent>.<run uid>.<child>  work that a task handed over
//	ARK_LEDGER    ark.ledger.log                                commits of the ledger; each writes to subjects of its own:
//	              ark.call.<ns>.<agent>.<run uid>.<task id>     journals of tasks
//	              ark.budget.<ns>.<scope>                       states of budgets, rolled up
//	ARK_PAYLOADS  ark.payload.<run uid>.>                       bodies above task.InlineLimit
//	ARK_DEAD      ark.dead.>                                    messages that nobody could read
//
// All streams have a byte limit and discard new messages when it is reached: a full stream is ErrFull, never a lost
// task. Token chunks, progress and "cancel now" are hints on core NATS: they are not stored and decide nothing.
//
// Publishing twice is harmless everywhere: task and result subjects hold one message, payloads are named by their
// content, and batches carry the sequence that they expect. What an error says about the outcome matters: ErrStale,
// ErrExists, ErrFull, ErrTooLarge and ErrUnavailable mean that nothing was stored, ErrUnknownOutcome means that it
// may have been, or may still be.
//
// All types are safe for concurrent use unless they say otherwise.
package queue
