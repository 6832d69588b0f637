package agents

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"arkonis.dev/ark/pkg/kube"
)

// content is what is known of a ConfigMap or a Secret: the hashes of all its keys, and the values of those that were asked
// for. Other values, which may be secrets, are not kept.
type content struct {
	uid     types.UID
	version string
	hashes  map[string]string // SHA-256 in hex, by key
	values  map[string]string // only what was asked for
	asked   []string
}

// contents reads ConfigMaps and Secrets when they have changed, and remembers what it has read. It is safe for concurrent
// use.
type contents struct {
	core kubernetes.Interface

	mu    sync.Mutex
	known map[string]*content
}

func newContents(core kubernetes.Interface) *contents {
	return &contents{core: core, known: map[string]*content{}}
}

// get returns what an object holds, nil when there is none. meta is what the cache has of it; nil for nothing.
func (c *contents) get(ctx context.Context, kind string, meta *metav1.PartialObjectMetadata, values []string) (*content, error) {
	if meta == nil {
		return nil, nil
	}
	key := indexKey(kind, meta.Namespace, meta.Name)
	c.mu.Lock()
	known := c.known[key]
	c.mu.Unlock()
	if known != nil && known.uid == meta.UID && known.version == meta.ResourceVersion && has(known.asked, values) {
		return known, nil
	}
	if known != nil && known.uid == meta.UID {
		values = append(slices.Clone(known.asked), values...)
		slices.Sort(values)
		values = slices.Compact(values)
	}
	read, err := c.read(ctx, kind, meta.Namespace, meta.Name, values)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kube.Describe(kind, meta.Namespace, meta.Name), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[key] = read
	return read, nil
}

func has(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

func (c *contents) read(ctx context.Context, kind, namespace, name string, values []string) (*content, error) {
	out := &content{hashes: map[string]string{}, values: map[string]string{}, asked: values}
	add := func(key string, value []byte) {
		sum := sha256.Sum256(value)
		out.hashes[key] = hex.EncodeToString(sum[:])
		if slices.Contains(values, key) {
			out.values[key] = string(value)
		}
	}
	if kind == kindSecret {
		s, err := c.core.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		out.uid, out.version = s.UID, s.ResourceVersion
		for k, v := range s.Data {
			add(k, v)
		}
		return out, nil
	}
	m, err := c.core.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	out.uid, out.version = m.UID, m.ResourceVersion
	for k, v := range m.Data {
		add(k, []byte(v))
	}
	for k, v := range m.BinaryData {
		add(k, v)
	}
	return out, nil
}

func (c *contents) forget(kind, namespace, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, indexKey(kind, namespace, name))
}
