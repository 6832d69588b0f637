// Package manifest loads ark's objects from YAML and JSON, strictly: whatever the API server would refuse, drop or
// read otherwise than it was meant is a finding with its file and line, and all findings are reported at once.
//
// Sources are files, folders (their *.yaml, *.yml and *.json files, sorted, without sub-folders, as kubectl does),
// http(s) addresses and standard input. They hold the kinds of arkonis.dev/v1alpha1, ConfigMaps and Secrets; lists of
// those are taken apart; objects of other groups are skipped with a note. Scalars mean what they mean to kubectl (yes
// and on are booleans), but numbers keep their digits.
//
// The positions of all fields are kept, so that what is found later - a template that names nothing, a cycle - can be
// reported at its line: see Set.Locate.
package manifest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// The limits of what is loaded.
const (
	MaxFiles     = 1000
	MaxFile      = 8 << 20  // bytes of one source
	MaxTotal     = 64 << 20 // bytes of all sources
	MaxDocuments = 1000     // of one source
	MaxDocument  = 3 << 20  // bytes of one document
	MaxValues    = 100_000  // values of one document, aliases resolved
	MaxDepth     = 100      // levels of one document
	MaxFindings  = 200      // reported at once
)

// Sources say where manifests come from.
type Sources struct {
	Paths      []string     // files, folders, http(s) addresses, and "-" for Stdin
	Stdin      io.Reader    // read when Paths holds "-"
	HTTPClient *http.Client // for addresses; nil: a client of its own. A download takes at most 30 s
}

// Set is what was loaded: every object with its defaults, in the order of the sources. It is safe for concurrent reads.
type Set struct {
	Agents     []*v1alpha1.ArkAgent
	Events     []*v1alpha1.ArkEvent
	Memories   []*v1alpha1.ArkMemory
	Notifiers  []*v1alpha1.ArkNotify
	Registries []*v1alpha1.ArkRegistry
	Runs       []*v1alpha1.ArkRun
	Services   []*v1alpha1.ArkService
	Settings   []*v1alpha1.ArkSettings
	Teams      []*v1alpha1.ArkTeam
	ConfigMaps []*corev1.ConfigMap
	Secrets    []*corev1.Secret

	Notes []Note // what was skipped, and what kubectl would read otherwise

	origins map[metav1.Object]origin
}

// origin is where an object stands.
type origin struct {
	file string
	name string // Kind/name
	node *node
}

// Note is something that a user should know and that is no fault.
type Note struct {
	File    string
	Line    int
	Object  string // Kind/name
	Message string
}

func (n Note) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", n.File, n.Line, n.Object, n.Message)
}

// Len is the number of objects.
func (s *Set) Len() int { return len(s.origins) }

// Load reads all sources. The error is of type *Error and holds every finding; other errors are those of the context.
func Load(ctx context.Context, src Sources) (*Set, error) {
	l := &loader{set: &Set{origins: map[metav1.Object]origin{}}, seen: map[objectKey]origin{}}
	files, err := l.read(ctx, src)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		l.file(f)
	}
	if len(l.findings) == 0 && l.set.Len() == 0 {
		l.report(Finding{
			File: sourceNames(src.Paths), Message: "holds no object of ark",
			Hint: "objects have apiVersion: " + v1alpha1.GroupVersion().String(),
		})
	}
	if len(l.findings) > 0 {
		return nil, l.fault()
	}
	return l.set, nil
}

// loader gathers objects and findings.
type loader struct {
	set      *Set
	findings []Finding
	seen     map[objectKey]origin
}

type objectKey struct{ group, kind, namespace, name string }

// maxPath bounds the field path of a finding, in bytes.
const maxPath = 512

func (l *loader) report(f Finding) {
	if len(f.Field) > maxPath {
		f.Field = strings.ToValidUTF8(f.Field[:maxPath], "") + "..."
	}
	l.findings = append(l.findings, f)
}

// file loads the documents of one source.
func (l *loader) file(f file) {
	docs, findings := parse(f)
	l.findings = append(l.findings, findings...)
	for _, d := range docs {
		l.document(f.name, d)
	}
}
