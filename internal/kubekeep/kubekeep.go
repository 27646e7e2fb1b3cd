// Package kubekeep keeps a small text in a Secret that replicas have in common.
//
// In: what is to become of the text. Out: the Secret, made when there is something to keep, and changed only from what is in it: who
// writes at the same time as another replica reads again. What Secret returns is safe for concurrent use.
package kubekeep

import (
	"bytes"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	// timeout is less than the 10 s a proxy waits for its certificate; a conflict takes milliseconds.
	timeout = 5 * time.Second
	tries   = 8
)

// Secret changes the text at a key of a Secret. change makes the new text of the old one, nil if there is none, and is called again
// after a conflict; a text that stays the same is not written, an error of change writes nothing and is returned.
func Secret(secrets corev1client.SecretInterface, name, key string, labels map[string]string) func(change func(old []byte) ([]byte, error)) error {
	return func(change func([]byte) ([]byte, error)) error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		var err error
		for range tries {
			if err = once(ctx, secrets, name, key, labels, change); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("Secret %s: %w", name, err)
		}
		return nil
	}
}

// once fails with a conflict if another replica wrote meanwhile.
func once(ctx context.Context, secrets corev1client.SecretInterface, name, key string, labels map[string]string, change func([]byte) ([]byte, error)) error {
	held, err := secrets.Get(ctx, name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	if missing {
		held = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	text, err := change(held.Data[key])
	if err != nil || bytes.Equal(text, held.Data[key]) {
		return err
	}
	next := held.DeepCopy()
	next.Data = map[string][]byte{key: text}
	if missing {
		_, err = secrets.Create(ctx, next, metav1.CreateOptions{})
	} else {
		_, err = secrets.Update(ctx, next, metav1.UpdateOptions{})
	}
	return err
}
