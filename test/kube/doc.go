// Package kube tests Weir in a real cluster, that of KUBECONFIG: its images, installed by
// its own command, in pods that kubelet starts. It skips without a cluster.
//
// Tests install what they need, in namespaces of their own, and one after another: there
// is one installation in a cluster. `make e2e` runs all of them; WEIR_KUBE_IMAGES=HUB:TAG
// says which images the nodes have, WEIR_KUBE_LONG how long the long ones go on.
// WEIR_NODE is a shell on the first node, for what no API can break; WEIR_KUBE_BEFORE='PROGRAM
// HUB:TAG' an earlier version's weir and its images, from which TestUpgrade upgrades.
// objects/ needs an API server only.
package kube
