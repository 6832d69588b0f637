package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// arkObject is what every kind of ark can do.
type arkObject interface {
	metav1.Object
	SetDefaults()
	Validate() field.ErrorList
}

// placed is one object with its file, on its way into the set.
type placed struct {
	l    *loader
	file string
	root *node
	kind string
	name string // Kind/name for findings, as far as known
}

func (p *placed) report(path, message, hint string) {
	line, _ := p.root.find(path)
	p.l.report(Finding{File: p.file, Line: line, Object: p.name, Field: path, Message: message, Hint: hint})
}

// document loads one document, or each item of a list.
func (l *loader) document(file string, d document) {
	l.object(file, d.root, "", "")
	for _, n := range d.notes {
		n.Object = objectName(d.root.text("kind"), d.root)
		l.set.Notes = append(l.set.Notes, n)
	}
}

// object loads one object. What its list says of kind and version holds when it says nothing itself.
func (l *loader) object(file string, root *node, apiVersion, kind string) {
	p := &placed{l: l, file: file, root: root}
	if root.kind != objectNode {
		p.report("", "a manifest must be an object with apiVersion and kind, not "+root.describe(), "")
		return
	}
	if v := root.get("apiVersion"); v != nil || apiVersion == "" {
		apiVersion = root.text("apiVersion")
	}
	if v := root.get("kind"); v != nil || kind == "" {
		kind = root.text("kind")
	}
	p.kind = kind
	p.name = objectName(kind, root)
	if !p.identified(apiVersion, kind) {
		return
	}
	group, version, ok := strings.Cut(apiVersion, "/")
	if !ok {
		group, version = "", apiVersion
	}
	switch {
	case group == "" && kind == "List" && version == "v1":
		l.items(file, root, "", "")
	case group == v1alpha1.GroupName:
		p.ark(version)
	case group == "" && version == "v1" && kind == "ConfigMap":
		p.configMap()
	case group == "" && version == "v1" && kind == "Secret":
		p.secret()
	case slices.Contains(arkKinds(), kind):
		p.report("apiVersion", fmt.Sprintf("%s is not the version of %s", clip(apiVersion), kind),
			"use apiVersion: "+v1alpha1.GroupVersion().String())
	default:
		l.set.Notes = append(l.set.Notes, Note{File: file, Line: root.line, Object: p.name, Message: "skipped: " + clip(apiVersion) + " is no kind of ark"})
	}
}

// objectName names an object in findings.
func objectName(kind string, root *node) string {
	name := clip(root.get("metadata").text("name"))
	if kind == "" || name == "" {
		return clip(kind) + name
	}
	return clip(kind) + "/" + name
}

// identified checks that an object says what it is.
func (p *placed) identified(apiVersion, kind string) bool {
	missing := func(key, hint string) {
		message := "is missing"
		if p.root.get(key) != nil {
			message = "must be text that is not empty"
		}
		p.report(key, message, hint)
	}
	if kind == "" {
		missing("kind", "one of "+strings.Join(arkKinds(), ", "))
	}
	if apiVersion == "" {
		missing("apiVersion", "apiVersion: "+v1alpha1.GroupVersion().String())
	}
	return kind != "" && apiVersion != ""
}

// arkKinds are the kinds of ark, sorted.
func arkKinds() []string {
	var kinds []string
	for _, k := range v1alpha1.Kinds() {
		kinds = append(kinds, reflect.TypeOf(k.Object).Elem().Name())
	}
	return kinds
}

// items loads the items of a list.
func (l *loader) items(file string, root *node, apiVersion, kind string) {
	items := root.get("items")
	p := &placed{l: l, file: file, root: root, name: objectName(root.text("kind"), root)}
	if items == nil || items.kind != listNode {
		p.report("items", "a list must have a list of items", "")
		return
	}
	for _, e := range items.items {
		l.object(file, e, apiVersion, kind)
	}
}

// ark loads an object of ark.
func (p *placed) ark(version string) {
	if version != v1alpha1.Version {
		p.report("apiVersion", fmt.Sprintf("%s has no version %s", v1alpha1.GroupName, clip(version)), "use apiVersion: "+v1alpha1.GroupVersion().String())
		return
	}
	if kind, ok := strings.CutSuffix(p.kind, "List"); ok && slices.Contains(arkKinds(), kind) {
		p.l.items(p.file, p.root, v1alpha1.GroupVersion().String(), kind)
		return
	}
	switch p.kind {
	case "ArkAgent":
		load(p, &v1alpha1.ArkAgent{}, &p.l.set.Agents)
	case "ArkEvent":
		load(p, &v1alpha1.ArkEvent{}, &p.l.set.Events)
	case "ArkMemory":
		load(p, &v1alpha1.ArkMemory{}, &p.l.set.Memories)
	case "ArkNotify":
		load(p, &v1alpha1.ArkNotify{}, &p.l.set.Notifiers)
	case "ArkRegistry":
		load(p, &v1alpha1.ArkRegistry{}, &p.l.set.Registries)
	case "ArkRun":
		load(p, &v1alpha1.ArkRun{}, &p.l.set.Runs)
	case "ArkService":
		load(p, &v1alpha1.ArkService{}, &p.l.set.Services)
	case "ArkSettings":
		load(p, &v1alpha1.ArkSettings{}, &p.l.set.Settings)
	case "ArkTeam":
		load(p, &v1alpha1.ArkTeam{}, &p.l.set.Teams)
	default:
		hint := "there are " + strings.Join(arkKinds(), ", ")
		if c := closest(p.kind, arkKinds()); c != "" {
			hint = "did you mean " + c + "?"
		}
		p.report("kind", fmt.Sprintf("%s has no kind %s", v1alpha1.GroupVersion(), clip(p.kind)), hint)
	}
}

// load checks and decodes an object of ark, and puts it into its list.
func load[T arkObject](p *placed, object T, list *[]T) {
	doc, _ := p.root.plain().(map[string]any)
	doc["apiVersion"], doc["kind"] = v1alpha1.GroupVersion().String(), p.kind
	var errs field.ErrorList
	errs = append(errs, v1alpha1.ValidateDocument(p.kind, doc)...)
	fits := p.strict(object)
	if p.decode(doc, object, fits && len(errs) == 0) {
		object.SetDefaults()
		errs = append(errs, object.Validate()...)
	}
	p.fields(errs)
	if p.named(v1alpha1.GroupName, object) {
		*list = append(*list, object)
	}
}

// configMap loads a ConfigMap.
func (p *placed) configMap() {
	object := &corev1.ConfigMap{}
	if p.strict(object) && p.decode(p.root.plain(), object, true) && p.named("", object) {
		p.l.set.ConfigMaps = append(p.l.set.ConfigMaps, object)
	}
}

// secret loads a Secret; stringData goes into data, as it does in the API server.
func (p *placed) secret() {
	object := &corev1.Secret{}
	if !p.strict(object) || !p.decode(p.root.plain(), object, true) || !p.named("", object) {
		return
	}
	for k, v := range object.StringData {
		if object.Data == nil {
			object.Data = map[string][]byte{}
		}
		object.Data[k] = []byte(v)
	}
	object.StringData = nil
	p.l.set.Secrets = append(p.l.set.Secrets, object)
}

// decode fills an object in. A failure is reported when nothing else is known to be wrong.
func (p *placed) decode(doc, object any, report bool) bool {
	text, err := json.Marshal(doc)
	if err == nil {
		err = json.Unmarshal(text, object)
	}
	if err == nil {
		return true
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case !report:
	case errors.As(err, &wrong):
		p.report(wrong.Field, "cannot be "+article(wrong.Value), "")
	case p.kind == "Secret":
		p.report("", "cannot be read", "each value under data must be base64")
	default:
		p.report("", "cannot be read: "+err.Error(), "")
	}
	return false
}

func article(what string) string {
	if strings.HasPrefix(what, "number ") {
		return "the " + clip(what)
	}
	if strings.IndexAny(what[:min(1, len(what))], "aeiou") == 0 {
		return "an " + what
	}
	return "a " + what
}

// fields reports what the API's own checks found, each fault once.
func (p *placed) fields(errs field.ErrorList) {
	type place struct{ path, message string }
	seen := map[place]bool{}
	for _, f := range p.l.findings { // what is known of the object's metadata
		if f.Object == p.name && f.File == p.file {
			seen[place{f.Field, ""}] = true
		}
	}
	for _, e := range errs[:min(len(errs), maxErrors)] {
		path := e.Field
		if path == "<nil>" {
			path = ""
		}
		message, hint := fromField(e)
		if path == "metadata.name" && e.Type == field.ErrorTypeRequired {
			if p.root.get("metadata") == nil {
				continue // that is reported
			}
			message, hint = "is missing", nameHint
		}
		if seen[place{path, message}] || e.Type == field.ErrorTypeRequired && seen[place{path, ""}] {
			continue
		}
		seen[place{path, message}], seen[place{path, ""}] = true, true
		if message == "unknown field" && hint == "" {
			hint = p.fieldHint(path)
		}
		if _, n := p.root.find(path); hint == "" && n != nil {
			hint = quoteHint(n, e)
		}
		p.report(path, message, hint)
	}
}

// maxErrors bounds what is looked at of one object's faults.
const maxErrors = 2 * MaxFindings

// quoteHint says how to write text that YAML takes for something else.
func quoteHint(n *node, e *field.Error) string {
	if e.Type != field.ErrorTypeTypeInvalid || n.source == "" || !strings.Contains(e.Detail, "string") {
		return ""
	}
	return fmt.Sprintf("write it as %q", clip(n.source))
}

const nameHint = "every object needs a name of its own"

// named checks the name of an object, and that no other one has it.
func (p *placed) named(group string, object metav1.Object) bool {
	name := object.GetName()
	if name == "" {
		if object.GetGenerateName() != "" || group == "" {
			p.report("metadata.name", "is missing", nameHint)
		}
		return false
	}
	key := objectKey{group, p.kind, object.GetNamespace(), name}
	o := origin{p.file, p.name, p.root}
	if first, ok := p.l.seen[key]; ok {
		p.report("metadata.name", fmt.Sprintf("stands twice, first at %s:%d", first.file, first.node.line), nameHint)
		return false
	}
	p.l.seen[key] = o
	p.l.set.origins[object] = o
	return true
}

// arkType is the Go type of a kind of ark, or nil.
func arkType(kind string) reflect.Type {
	for _, k := range v1alpha1.Kinds() {
		if t := reflect.TypeOf(k.Object).Elem(); t.Name() == kind {
			return t
		}
	}
	return nil
}
