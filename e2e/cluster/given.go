package cluster

import (
	"context"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// given is a cluster that somebody else started.
func given(ctx context.Context, kubeconfig string, log io.Writer) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("use the cluster of KUBECONFIG: %w", err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("use the cluster of KUBECONFIG: %w", err)
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("use the cluster of KUBECONFIG=%s: %w", kubeconfig, err)
	}
	c := &Cluster{kubeconfig: kubeconfig, kubectl: "kubectl", rest: config}
	for _, node := range nodes.Items {
		c.nodes = append(c.nodes, node.Name)
	}
	fmt.Fprintf(log, "using the cluster at %s, which KUBECONFIG names\n", config.Host)
	return c, nil
}
