package v1alpha1

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Messages of rules that several kinds share. They are the same in the CRDs.
const (
	msgNameLength = "metadata.name must not be longer than 63 characters"
	msgPrompts    = "systemPrompt and systemPromptRef exclude each other"
)

// Validate returns everything that is wrong with the event, in the words of the API server where there is a CEL rule.
func (e *ArkEvent) Validate() field.ErrorList {
	r := newReport("ArkEvent", e, e.ObjectMeta)
	r.name(MaxNameLength, msgNameLength)
	if e.Spec.Source.Type == EventWebhook {
		r.must(len(e.Name) <= MaxHookNameLength, nil,
			"metadata.name of a webhook event must not be longer than 49 characters, so that the name of its Secret fits 63")
	}
	source, path := &e.Spec.Source, r.spec.Child("source")
	r.must((source.Type == EventCron) == (source.Cron != ""), path, "cron goes with type cron")
	r.must(source.TimeZone == "" || source.Type == EventCron, path, "timeZone goes with type cron")
	r.must((source.Type == EventTeamOutput) == (source.TeamOutput != nil), path, "teamOutput goes with type team-output")
	r.must(source.Webhook == nil || source.Type == EventWebhook, path, "webhook goes with type webhook")
	if hook := source.Webhook; hook != nil {
		r.must((hook.Auth == WebhookHMAC) == (hook.HMAC != nil), path.Child("webhook"), "hmac goes with auth hmac")
	}
	for i := range e.Spec.Targets {
		target := &e.Spec.Targets[i]
		r.must((target.Team != "") != (target.Agent != ""), r.spec.Child("targets").Index(i), "a target needs exactly one of team and agent")
	}
	return r.errs
}

// Validate returns everything that is wrong with the service, in the words of the API server where there is a CEL rule.
func (s *ArkService) Validate() field.ErrorList {
	r := newReport("ArkService", s, s.ObjectMeta)
	const message = "metadata.name also names a Service: it must start with a letter, hold only lower case letters, digits " +
		"and hyphens, and not be longer than 63 characters"
	r.name(MaxNameLength, message)
	r.must(s.Name == "" || len(s.Name) > MaxNameLength || isServiceName(s.Name), nil, message)
	selector := &s.Spec.Selector
	r.must(count(selector.ArkAgent != "", len(selector.MatchLabels) > 0, selector.ArkTeam != "") == 1, r.spec.Child("selector"),
		"selector needs exactly one of arkAgent, matchLabels and arkTeam")
	return r.errs
}

// Validate returns everything that is wrong with the memory, in the words of the API server where there is a CEL rule.
func (m *ArkMemory) Validate() field.ErrorList {
	r := newReport("ArkMemory", m, m.ObjectMeta)
	r.name(MaxNameLength, msgNameLength)
	s := &m.Spec
	r.must(s.NATS == nil || s.Backend == "" || s.Backend == MemoryNATS, r.spec, "nats goes with backend nats")
	r.must((s.Backend == MemoryRedis) == (s.Redis != nil), r.spec, "redis goes with backend redis")
	r.must((s.Backend == MemoryVectorStore) == (s.VectorStore != nil), r.spec, "vectorStore goes with backend vector-store")
	r.must(s.Embedding == nil || s.VectorStore != nil, r.spec, "embedding goes with backend vector-store")
	return r.errs
}

// Validate returns everything that is wrong with the settings, in the words of the API server where there is a CEL rule.
func (s *ArkSettings) Validate() field.ErrorList {
	r := newReport("ArkSettings", s, s.ObjectMeta)
	r.name(MaxNameLength, msgNameLength)
	return r.errs
}

// Validate returns everything that is wrong with the notifier, in the words of the API server where there is a CEL rule.
func (n *ArkNotify) Validate() field.ErrorList {
	r := newReport("ArkNotify", n, n.ObjectMeta)
	r.name(MaxNameLength, msgNameLength)
	s := &n.Spec
	r.must((len(s.Channels) > 0) != (s.Channel != nil), r.spec, "exactly one of channels and channel is needed")
	r.must(count(len(s.On) > 0, len(s.OnUnquoted) > 0, len(s.Events) > 0) <= 1, r.spec, "on and events exclude each other")
	for i := range s.Channels {
		r.channel(r.spec.Child("channels").Index(i), &s.Channels[i])
	}
	if s.Channel != nil {
		r.channel(r.spec.Child("channel"), s.Channel)
	}
	return r.errs
}

// Validate returns everything that is wrong with the registry, in the words of the API server where there is a CEL rule.
func (g *ArkRegistry) Validate() field.ErrorList {
	r := newReport("ArkRegistry", g, g.ObjectMeta)
	r.name(MaxNameLength, msgNameLength)
	return r.errs
}

// report gathers what is wrong with one object.
type report struct {
	meta metav1.ObjectMeta
	spec *field.Path
	errs field.ErrorList
}

// newReport starts with what the schema of the kind says about the object.
func newReport(kind string, object any, meta metav1.ObjectMeta) *report {
	r := &report{meta: meta, spec: field.NewPath("spec")}
	text, err := json.Marshal(object)
	if err != nil {
		r.errs = append(r.errs, field.Invalid(r.spec, field.OmitValueType{}, fmt.Sprintf("cannot be written as JSON: %v", err)))
		return r
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		r.errs = append(r.errs, field.InternalError(r.spec, err))
		return r
	}
	r.errs = ValidateDocument(kind, doc)
	return r
}

// must notes a rule that does not hold. A nil path is the object itself.
func (r *report) must(holds bool, path *field.Path, message string) {
	if holds {
		return
	}
	if path == nil {
		r.errs = append(r.errs, field.Invalid(field.NewPath("metadata", "name"), r.meta.Name, message))
		return
	}
	r.errs = append(r.errs, field.Invalid(path, field.OmitValueType{}, message))
}

// name checks the object's name: a DNS name with a greatest length.
func (r *report) name(maximum int, message string) {
	path := field.NewPath("metadata", "name")
	if r.meta.Name == "" {
		if r.meta.GenerateName == "" {
			r.errs = append(r.errs, field.Required(path, "name or generateName is required"))
		}
		return
	}
	for _, problem := range validation.IsDNS1123Subdomain(r.meta.Name) {
		r.errs = append(r.errs, field.Invalid(path, r.meta.Name, problem))
	}
	r.must(len(r.meta.Name) <= maximum, nil, message)
}

func (r *report) channel(path *field.Path, c *NotifyChannel) {
	r.must((c.Type == ChannelSlack) == (c.Slack != nil), path, "slack goes with type slack")
	r.must((c.Type == ChannelWebhook) == (c.Webhook != nil), path, "webhook goes with type webhook")
	if c.Slack != nil {
		r.must((c.Slack.WebhookURLFrom != nil) != (c.Slack.WebhookURLSecretRef != nil), path.Child("slack"),
			"slack needs exactly one of webhookURLFrom and webhookUrlSecretRef")
	}
	if c.Webhook != nil {
		r.must((c.Webhook.URL != "") != (c.Webhook.URLFrom != nil), path.Child("webhook"), "webhook needs exactly one of url and urlFrom")
		r.headers(path.Child("webhook", "headers"), c.Webhook.Headers)
	}
}

func (r *report) headers(path *field.Path, headers []Header) {
	for i := range headers {
		h := &headers[i]
		r.must(count(h.Value != "", h.SecretKeyRef != nil, h.ValueFrom != nil) == 1, path.Index(i),
			"a header takes its value from exactly one of value, secretKeyRef and valueFrom")
	}
}

// jsonObject checks a text that must be a JSON object. Empty is fine.
func (r *report) jsonObject(path *field.Path, text string) {
	if text == "" {
		return
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		message := "must be the JSON text of an object"
		if err != nil {
			message += ": " + err.Error()
		}
		r.errs = append(r.errs, field.Invalid(path, clip(text), message))
	}
}

// duration checks a text that must be a duration. Empty is fine.
func (r *report) duration(path *field.Path, text string) {
	if text == "" {
		return
	}
	if d, err := time.ParseDuration(text); err != nil || d < 0 {
		r.errs = append(r.errs, field.Invalid(path, clip(text), "must be a duration such as 90m or 72h"))
	}
}

// isServiceName says whether a Service can have the name.
func isServiceName(name string) bool { return len(validation.IsDNS1035Label(name)) == 0 }

// count says how many are true.
func count(set ...bool) int {
	n := 0
	for _, yes := range set {
		if yes {
			n++
		}
	}
	return n
}
