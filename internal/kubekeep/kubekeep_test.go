package kubekeep

import (
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// What is kept is changed only from what is in it, written only if it changes, and not at all if that is an error.
func TestSecret(t *testing.T) {
	client := fake.NewClientset()
	secrets := client.CoreV1().Secrets("istio-system")
	keep := Secret(secrets, "names", "names.txt", map[string]string{"made": "here"})
	add := func(text string) func([]byte) ([]byte, error) {
		return func(old []byte) ([]byte, error) { return append(slices.Clone(old), text...), nil }
	}
	if err := keep(add("")); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("nothing is to be kept, and it is written: %v", a)
		}
	}
	if err := keep(add("a")); err != nil {
		t.Fatal(err)
	}
	// Another replica writes between reading and writing.
	client.PrependReactor("update", "secrets", func() k8stesting.ReactionFunc {
		conflicts := 0
		return func(k8stesting.Action) (bool, runtime.Object, error) {
			if conflicts++; conflicts > 1 {
				return false, nil, nil
			}
			other := &corev1.Secret{Data: map[string][]byte{"names.txt": []byte("ab")}}
			other.Name, other.Namespace, other.Labels = "names", "istio-system", map[string]string{"made": "here"}
			if err := client.Tracker().Update(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, other, "istio-system"); err != nil {
				t.Error(err)
			}
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, "names", errors.New("it was written"))
		}
	}())
	if err := keep(add("c")); err != nil {
		t.Fatal(err)
	}
	if err := keep(func([]byte) ([]byte, error) { return []byte("x"), errors.New("no") }); err == nil {
		t.Error("an error is lost")
	}
	writes := len(client.Actions())
	var got string
	if err := keep(func(old []byte) ([]byte, error) { got = string(old); return old, nil }); err != nil || got != "abc" {
		t.Errorf("%q %v", got, err)
	}
	if n := len(client.Actions()) - writes; n != 1 {
		t.Errorf("reading took %d calls", n)
	}
}
