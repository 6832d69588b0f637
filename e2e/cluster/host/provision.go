package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

const (
	provisioner  = "e2e.arkonis.dev/shared"
	storageClass = "standard"

	retry = 10 * time.Second // what failed is tried again
)

// provision gives every claim of the StorageClass "standard", which is the default, a volume with the claim's access
// modes. A volume is a folder that all nodes see, so that it outlives a node as a cloud's disks do; it is gone with its
// claim. The kubelet gives it to the pod's fsGroup, as it is of type local.
func (c *cluster) provision(ctx context.Context) error {
	if err := c.makeClass(ctx); err != nil {
		return fmt.Errorf("make the StorageClass %s: %w", storageClass, err)
	}
	factory := informers.NewSharedInformerFactory(c.client, retry)
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	volumes := factory.Core().V1().PersistentVolumes().Informer()
	for informer, handle := range map[cache.SharedIndexInformer]func(any) error{
		claims:  func(object any) error { return c.handleClaim(ctx, object.(*corev1.PersistentVolumeClaim)) },
		volumes: func(object any) error { return c.handleVolume(ctx, object.(*corev1.PersistentVolume)) },
	} {
		report := func(object any) {
			if err := handle(object); err != nil {
				slog.Error("volume", "error", err)
			}
		}
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: report, UpdateFunc: func(_, object any) { report(object) }})
		if err != nil {
			return err
		}
	}
	factory.StartWithContext(ctx)
	<-ctx.Done()
	return ctx.Err()
}

func (c *cluster) makeClass(ctx context.Context) error {
	bindingMode, policy := storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimDelete
	_, err := c.client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: storageClass, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner:       provisioner,
		ReclaimPolicy:     &policy,
		VolumeBindingMode: &bindingMode,
	}, metav1.CreateOptions{})
	return err
}

// handleClaim makes the volume of a claim that has none. The name is the claim's alone, so that twice is once.
func (c *cluster) handleClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	class := claim.Spec.StorageClassName
	if class == nil || *class != storageClass || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	dir := filepath.Join(c.state("volumes"), name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask
		return err
	}
	_, err := c.client.CoreV1().PersistentVolumes().Create(ctx, newVolume(name, dir, claim), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func newVolume(name, dir string, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName:              storageClass,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpExists}},
			}}}},
		},
	}
}

// handleVolume removes a volume whose claim is gone.
func (c *cluster) handleVolume(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Status.Phase != corev1.VolumeReleased || volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisioner {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(c.state("volumes"), volume.Name)); err != nil {
		return err
	}
	err := c.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
