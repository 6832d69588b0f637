package exchange

import (
	"net/http"
	"strings"
	"sync"
)

// Features is a set of what a server may refuse; each provider numbers its own.
type Features uint8

// Each calls fn for every feature of the set, the lowest first.
func (f Features) Each(fn func(Features)) {
	for b := Features(1); b != 0; b <<= 1 {
		if f&b != 0 {
			fn(b)
		}
	}
}

// Refusals holds what each model refused. The zero Refusals is empty and ready. It is safe for concurrent use.
type Refusals struct {
	mu     sync.Mutex
	models map[string]Features
}

const refusalsLimit = 1024 // models; a model's name can come from outside

// Of is what a model refused so far.
func (r *Refusals) Of(model string) Features {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.models[model]
}

// Add remembers that a model refuses a feature.
func (r *Refusals) Add(model string, f Features) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.models == nil || len(r.models) >= refusalsLimit {
		r.models = map[string]Features{}
	}
	r.models[model] |= f
}

// Refusable says whether an answer with this status can refuse a feature; 0 is an error without one.
func Refusable(status int) bool {
	switch status {
	case 0, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnprocessableEntity,
		http.StatusInternalServerError, http.StatusNotImplemented:
		return true
	default:
		return false
	}
}

// Unsupported says that a server speaks of something that it does not know, or does not do.
func (s Said) Unsupported() bool {
	return containsAny(strings.ToLower(s.Message+" "+s.Param), refusalWords...) ||
		containsAny(strings.ToLower(s.Code+" "+s.Type), "unsupported", "not_supported", "unknown_parameter")
}

// Names says whether the message, or the parameter that it is about, contains one of the words, which are in lower
// case.
func (s Said) Names(words ...string) bool {
	return containsAny(strings.ToLower(s.Message+" "+s.Param), words...)
}

var refusalWords = []string{
	"not support", "n't support", "unsupported", "unknown", "unrecognized", "unrecognised", "unexpected", "not permitted",
	"not allowed", "extra inputs", "extra fields", "extra_forbidden", "not available", "not implemented", "not enabled",
	"disabled", "requires --", "must be verified", "no endpoints found that support",
}

func containsAny(text string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}
