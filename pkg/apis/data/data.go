// Package data is the wire of the aggregated API data.arkonis.dev/v1alpha1: what lives in the queue's stores, read
// through the API server, which authenticates the caller, and authorized by RBAC on these sub-resources:
//
//	GET .../namespaces/NS/arkruns/NAME/output[?step=STEP]     the whole output, as it is
//	GET .../namespaces/NS/arkruns/NAME/steps[?limit=&continue=]  every step, as a StepList
//	GET .../namespaces/NS/arkruns/NAME/log[?follow=true][&step=STEP]  what happened, one Entry a line, as JSON
//
// A log is ordered by time; with text=false it leaves out what models and tools said.
//
// All take uid=UID, which refuses a run of the same name that is another one. Errors are Kubernetes Status objects.
package data

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Names of the API.
const (
	Group    = "data.arkonis.dev"
	Version  = "v1alpha1"
	Path     = "/apis/" + Group + "/" + Version
	Resource = "arkruns"

	// KeysSecret is the Secret, in the operator's namespace, with the certificates that the operator makes for it.
	KeysSecret = "ark-api-tls"

	Output = "output"
	Steps  = "steps"
	Log    = "log"
)

// Kinds of the answers.
const (
	KindOutput   = "RunOutput"
	KindStepList = "StepList"
	KindLog      = "RunLog"
)

// StepList is a page of the steps of a run, in the order of the pipeline, delegated work behind who handed it over.
// Outputs are cut to a preview; the whole is read with output?step=.
type StepList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []v1alpha1.StepStatus `json:"items"`
}

// Entry is one thing that happened in a run.
type Entry struct {
	Kind EntryKind `json:"kind"`
	At   time.Time `json:"at"`
	// Run is the run below the one that was asked for, when the logs of several are put together; Step then begins with
	// the steps above it.
	Run string `json:"run,omitempty"`
	// Step, Task and Agent say whose entry it is. Task is the task's id; a step may have several.
	Step  string `json:"step,omitempty"`
	Task  string `json:"task,omitempty"`
	Agent string `json:"agent,omitempty"`
	Pod   string `json:"pod,omitempty"`

	Call  int    `json:"call,omitempty"`  // number of the model call within the task
	Model string `json:"model,omitempty"` // of EntryCall
	Tool  string `json:"tool,omitempty"`  // of EntryTool and EntryToolDone
	ID    string `json:"id,omitempty"`    // of the tool call
	// Text is the model's words, the arguments or the result of a tool, or a message.
	Text string `json:"text,omitempty"`
	// Cut says that Text is not all of it.
	Cut   bool `json:"cut,omitempty"`
	Error bool `json:"error,omitempty"`
	// Phase is how a task or the run ended, Reason why it failed.
	Phase  string `json:"phase,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Tokens that the call, or the whole task, used.
	Tokens int64 `json:"tokens,omitempty"`
	// InputTokens and OutputTokens of a model call.
	InputTokens  int64 `json:"inputTokens,omitempty"`
	OutputTokens int64 `json:"outputTokens,omitempty"`
}

// EntryKind says what happened.
type EntryKind string

// Kinds of entries.
const (
	EntryStarted  EntryKind = "started"  // a pod took the task over
	EntryReleased EntryKind = "released" // the pod handed it back
	EntryCall     EntryKind = "call"     // a model call begins
	EntryChunk    EntryKind = "chunk"    // a piece of an answer while it is written, with follow only
	EntryAnswer   EntryKind = "answer"   // the model has answered
	EntryFailed   EntryKind = "failed"   // the model call failed
	EntryTool     EntryKind = "tool"     // a tool call begins
	EntryToolDone EntryKind = "toolDone" // a tool call has ended
	EntryNote     EntryKind = "note"     // something that a person should know
	EntryEnded    EntryKind = "ended"    // the task has a result
	EntryRunEnded EntryKind = "runEnded" // the run has ended: the last entry
	EntryMissed   EntryKind = "missed"   // the reader was too slow: chunks were left out
)
