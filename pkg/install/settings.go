package install

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// change returns an object of the manifests as the settings want it: one, or for a binding several.
func (s Settings) change(o *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	s.move(o)
	switch o.GetKind() {
	case "StatefulSet":
		return []*unstructured.Unstructured{o}, s.changeOperator(o)
	case "NetworkPolicy":
		return []*unstructured.Unstructured{o}, s.changeIngress(o)
	case "ClusterRoleBinding":
		return s.bindings(o), nil
	default:
		return []*unstructured.Unstructured{o}, nil
	}
}

// move puts an object, and the subjects that it names, into ark's namespace.
func (s Settings) move(o *unstructured.Unstructured) {
	if o.GetKind() == "Namespace" {
		o.SetName(s.Namespace)
	}
	if o.GetNamespace() == DefaultNamespace {
		o.SetNamespace(s.Namespace)
	}
	subjects, _, _ := unstructured.NestedSlice(o.Object, "subjects")
	for _, subject := range subjects {
		if m, ok := subject.(map[string]any); ok {
			m["namespace"] = s.Namespace
		}
	}
	if len(subjects) > 0 {
		o.Object["subjects"] = subjects
	}
	service, _, _ := unstructured.NestedMap(o.Object, "spec", "service")
	if o.GetKind() == "APIService" && service != nil {
		service["namespace"] = s.Namespace
		spec, _, _ := unstructured.NestedMap(o.Object, "spec")
		spec["service"] = service
		o.Object["spec"] = spec
	}
	s.moveRules(o)
}

// moveRules has a role that names ark's namespace name the right one, and the one about namespaces only those that are
// watched.
func (s Settings) moveRules(o *unstructured.Unstructured) {
	rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
	for _, rule := range rules {
		m, ok := rule.(map[string]any)
		if !ok {
			continue
		}
		names, _, _ := unstructured.NestedStringSlice(m, "resourceNames")
		resources, _, _ := unstructured.NestedStringSlice(m, "resources")
		if len(resources) != 1 || resources[0] != "namespaces" {
			continue
		}
		switch {
		case len(names) == 1 && names[0] == DefaultNamespace:
			m["resourceNames"] = []any{s.Namespace}
		case o.GetName() == "ark-operator-namespaces" && len(s.Watch) > 0:
			m["resourceNames"] = anys(s.Watch)
		}
	}
	if len(rules) > 0 {
		o.Object["rules"] = rules
	}
}

// bindings binds the operator's role in each watched namespace, where the manifests bind it in all.
func (s Settings) bindings(o *unstructured.Unstructured) []*unstructured.Unstructured {
	if len(s.Watch) == 0 || o.GetName() != "ark-operator" {
		return []*unstructured.Unstructured{o}
	}
	var all []*unstructured.Unstructured
	for _, ns := range s.Watch {
		b := o.DeepCopy()
		b.SetKind("RoleBinding")
		b.SetName("ark-operator-watch")
		b.SetNamespace(ns)
		all = append(all, b)
	}
	return all
}

// changeIngress lets only pods of watched namespaces reach the queue.
func (s Settings) changeIngress(o *unstructured.Unstructured) error {
	if len(s.Watch) == 0 {
		return nil
	}
	rules, _, err := unstructured.NestedSlice(o.Object, "spec", "ingress")
	if err != nil {
		return err
	}
	for _, rule := range rules {
		if m, ok := rule.(map[string]any); ok && m["from"] != nil {
			m["from"] = []any{map[string]any{"namespaceSelector": map[string]any{"matchExpressions": []any{
				map[string]any{"key": "kubernetes.io/metadata.name", "operator": "In", "values": anys(s.Watch)},
			}}}}
		}
	}
	return unstructured.SetNestedSlice(o.Object, rules, "spec", "ingress")
}

func (s Settings) changeOperator(o *unstructured.Unstructured) error {
	pod, err := nested(o.Object, "spec", "template", "spec")
	if err != nil {
		return err
	}
	if len(s.PullSecrets) > 0 {
		var refs []any
		for _, name := range s.PullSecrets {
			refs = append(refs, map[string]any{"name": name})
		}
		pod["imagePullSecrets"] = refs
	}
	container, err := first(pod, "containers")
	if err != nil {
		return err
	}
	env := environment{container: container}
	env.set("ARK_NATS_ADVERTISE", "tls://ark-nats."+s.Namespace+".svc:4222")
	if s.Image != "" {
		container["image"] = s.Image
		env.set("ARK_AGENT_IMAGE", s.Image)
	}
	if len(s.Watch) > 0 {
		env.set("ARK_WATCH_NAMESPACES", strings.Join(s.Watch, ","))
	}
	if s.LogLevel != "" {
		env.set("ARK_LOG_LEVEL", s.LogLevel)
	}
	return s.changeVolume(o, env)
}

func (s Settings) changeVolume(o *unstructured.Unstructured, env environment) error {
	spec, err := nested(o.Object, "spec")
	if err != nil {
		return err
	}
	template, err := first(spec, "volumeClaimTemplates")
	if err != nil {
		return err
	}
	claim, err := nested(template, "spec")
	if err != nil {
		return err
	}
	if s.StorageClass != "" {
		claim["storageClassName"] = s.StorageClass
	}
	if s.StorageSize == "" {
		return nil
	}
	size, err := resource.ParseQuantity(s.StorageSize)
	if err != nil {
		return err
	}
	env.set("ARK_STORE_SIZE", resource.NewQuantity(size.Value()/5*4, resource.BinarySI).String())
	return unstructured.SetNestedField(claim, s.StorageSize, "resources", "requests", "storage")
}

// environment is that of a container; set changes a variable or adds it.
type environment struct{ container map[string]any }

func (e environment) set(name, value string) {
	env, _ := e.container["env"].([]any)
	for _, v := range env {
		if m, ok := v.(map[string]any); ok && m["name"] == name {
			m["value"] = value
			return
		}
	}
	e.container["env"] = append(env, map[string]any{"name": name, "value": value})
}

// nested returns the map at a path, not a copy of it.
func nested(m map[string]any, path ...string) (map[string]any, error) {
	for _, field := range path {
		next, ok := m[field].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s is missing", strings.Join(path, "."))
		}
		m = next
	}
	return m, nil
}

// first returns the first element of a list of maps.
func first(m map[string]any, list string) (map[string]any, error) {
	if all, ok := m[list].([]any); ok && len(all) > 0 {
		if one, ok := all[0].(map[string]any); ok {
			return one, nil
		}
	}
	return nil, fmt.Errorf("%s is missing", list)
}

func anys(list []string) []any {
	var out []any
	for _, s := range list {
		out = append(out, s)
	}
	return out
}
