package kube

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Flags are kubectl's flags, as far as they say which cluster and which namespace is meant. Empty ones say nothing.
type Flags struct {
	Kubeconfig string // a file; $KUBECONFIG and ~/.kube/config without
	Context    string // of the kubeconfig; its current one without
	Namespace  string // that of the context without
	UserAgent  string
}

// Load reads the configuration as kubectl does: kubeconfig files first, then that of the pod that it runs in.
func (f Flags) Load() (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: f.Context, Context: clientcmdapi.Context{Namespace: f.Namespace}}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	c, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, "", fmt.Errorf("no cluster is configured in %s: give --kubeconfig, set KUBECONFIG, or make ~/.kube/config", strings.Join(rules.GetLoadingPrecedence(), ", "))
	}
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig: %w", err)
	}
	f.tune(c)
	return c, namespace, nil
}

// Contexts are the names of the contexts of the kubeconfig, for the completion of a shell; none when it cannot be read.
func (f Flags) Contexts() []string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.Kubeconfig
	c, err := rules.Load()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.Contexts))
}

// LoadInCluster reads the configuration of the pod that the process runs in, or as Load does when it runs in none.
func (f Flags) LoadInCluster() (*rest.Config, error) {
	if f.Kubeconfig == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		if c, err := rest.InClusterConfig(); err == nil {
			f.tune(c)
			return c, nil
		}
	}
	c, _, err := f.Load()
	return c, err
}

// tune lets the API server's own fairness bound what a client may ask, instead of the client's bucket of 5 per second.
func (f Flags) tune(c *rest.Config) {
	c.QPS = -1
	if f.UserAgent != "" {
		c.UserAgent = f.UserAgent
	}
}
