package kube

import (
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/internal/kubekeep"
)

// Uses remembers in a Secret, which all replicas have in common, who used tokens for machines.
func Uses(secrets corev1client.SecretInterface, labels map[string]string) *token.Uses {
	return token.NewUses(kubekeep.Secret(secrets, UsesSecret, "used-tokens.json", labels))
}
