package objects

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestScale fills the cluster with WEIR_KUBE_SCALE services of two pods each, objects only,
// on a node without a kubelet, and holds them for WEIR_KUBE_HOLD (1m): what a
// weir-control beside it takes can be read from the process.
func TestScale(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("WEIR_KUBE_SCALE"))
	if err != nil {
		t.Skip("WEIR_KUBE_SCALE is not a number of services")
	}
	hold, err := time.ParseDuration(os.Getenv("WEIR_KUBE_HOLD"))
	if err != nil {
		hold = time.Minute
	}
	c := connect(t)
	k := c.Client
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.Namespace, Labels: map[string]string{corev1.LabelTopologyRegion: "r", corev1.LabelTopologyZone: "z"}}}
	if _, err := k.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.CoreV1().Nodes().Delete(context.Background(), node.Name, metav1.DeleteOptions{}) })
	began := time.Now()
	var all sync.WaitGroup
	places := make(chan struct{}, 16)
	for i := range n {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			if err := fill(t.Context(), k, c.Namespace, i); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	t.Logf("%d services and %d pods in %v", n, 2*n, time.Since(began).Round(time.Second))
	select {
	case <-time.After(hold):
	case <-t.Context().Done():
	}
}

func fill(ctx context.Context, k kubernetes.Interface, namespace string, i int) error {
	name := fmt.Sprintf("s%d", i)
	labels := map[string]string{"app": name, "version": "v1", "service.istio.io/canonical-name": name, "security.istio.io/tlsMode": "istio", "pod-template-hash": "5d4f8c7b9d"}
	if _, err := k.CoreV1().Services(namespace).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "grpc", Port: 81}}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	port, portName := int32(8080), "http"
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}}}
	grace := int64(0)
	for j := range 2 {
		ip := fmt.Sprintf("10.%d.%d.%d", 100+j, i/250, i%250+1)
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, j), Labels: labels, Annotations: map[string]string{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`}},
			Spec: corev1.PodSpec{NodeName: namespace, TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{
				{Name: "app", Image: "none", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}, Env: []corev1.EnvVar{{Name: "A", Value: "b"}}},
				{Name: "istio-proxy", Image: "none", Env: []corev1.EnvVar{{Name: "PROXY_CONFIG", Value: "{}"}}}}}}
		p, err := k.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		if _, err := k.CoreV1().Pods(namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			return err
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: p.Name}})
	}
	_, err := k.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{})
	return err
}
