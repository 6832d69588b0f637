// Package install puts ark into a cluster and takes it out again: the objects of ark's plain manifests, changed to what is
// asked for, applied by server-side apply.
//
// Install may be repeated; it changes only what differs. Objects of an earlier install that are not asked for any more are
// removed. What Helm installed is left to Helm. Nothing here is safe for concurrent use on one cluster.
package install

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"

	"arkonis.dev/ark/deploy"
)

// DefaultNamespace is that of ark in the manifests.
const DefaultNamespace = "ark-system"

// Settings is what may differ from the manifests. Empty ones leave what the manifests say; Namespace is required.
type Settings struct {
	Namespace    string
	Image        string   // of the operator and of agents' pods
	PullSecrets  []string // names of Secrets in ark's namespace
	Watch        []string // the namespaces to look after; ark gets rights in these only
	StorageClass string
	StorageSize  string // of the queue's volume; the queue fills at most four fifths of it
	LogLevel     string
}

func (s Settings) validate() error {
	for _, ns := range append([]string{s.Namespace}, s.Watch...) {
		if errs := validation.IsDNS1123Label(ns); len(errs) > 0 {
			return fmt.Errorf("namespace %q: %s", ns, errs[0])
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(s.Watch)))) != len(s.Watch) {
		return fmt.Errorf("a watched namespace is named twice: %s", strings.Join(s.Watch, ", "))
	}
	for _, name := range s.PullSecrets {
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			return fmt.Errorf("pull secret %q: %s", name, errs[0])
		}
	}
	if s.StorageSize == "" {
		return nil
	}
	if q, err := resource.ParseQuantity(s.StorageSize); err != nil || q.Value() <= 0 {
		return fmt.Errorf("storage size %q: want a size such as 20Gi", s.StorageSize)
	}
	return nil
}

// Objects returns what an install consists of, in the order in which it is applied.
func Objects(s Settings) ([]*unstructured.Unstructured, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	for _, text := range [][]byte{deploy.CRDs(), deploy.Operator()} {
		objects, err := decode(text)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	var out []*unstructured.Unstructured
	for _, o := range all {
		changed, err := s.change(o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", Describe(o), err)
		}
		out = append(out, changed...)
	}
	for _, o := range out {
		if _, err := kindOf(o); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b *unstructured.Unstructured) int { return cmp.Compare(rank(a), rank(b)) })
	return out, nil
}

func decode(text []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := d.Decode(&o.Object)
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("the manifests inside this executable: %w", err)
		case len(o.Object) > 0:
			out = append(out, o)
		}
	}
}

// Describe names an object as kubectl does: kind.group/name.
func Describe(o *unstructured.Unstructured) string {
	gk := o.GroupVersionKind().GroupKind()
	return strings.ToLower(gk.String()) + "/" + o.GetName()
}
