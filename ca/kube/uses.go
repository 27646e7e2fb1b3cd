package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/weirmesh/weir/ca/token"
)

const (
	usesKey = "used-tokens.json"
	// usesTimeout is less than the 10 s a proxy waits for its certificate; a conflict takes milliseconds.
	usesTimeout = 5 * time.Second
	usesTries   = 8
)

// Uses remembers in a Secret, which all replicas have in common, who used tokens for machines.
func Uses(secrets corev1client.SecretInterface, labels map[string]string) *token.Uses {
	return token.NewUses(func(change func([]byte) ([]byte, error)) error {
		ctx, cancel := context.WithTimeout(context.Background(), usesTimeout)
		defer cancel()
		var err error
		for range usesTries {
			if err = changeUses(ctx, secrets, labels, change); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("Secret %s: %w", UsesSecret, err) //nolint:staticcheck // a kind is written so
		}
		return nil
	})
}

// changeUses fails with a conflict if another replica wrote meanwhile.
func changeUses(ctx context.Context, secrets corev1client.SecretInterface, labels map[string]string, change func([]byte) ([]byte, error)) error {
	held, err := secrets.Get(ctx, UsesSecret, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	if missing {
		held = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: UsesSecret, Labels: labels}}
	}
	text, err := change(held.Data[usesKey])
	if err != nil {
		return err
	}
	next := held.DeepCopy()
	next.Data = map[string][]byte{usesKey: text}
	if missing {
		_, err = secrets.Create(ctx, next, metav1.CreateOptions{})
	} else {
		_, err = secrets.Update(ctx, next, metav1.UpdateOptions{})
	}
	return err
}
