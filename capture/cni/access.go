package cni

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// ErrAway says that nobody answered who could know; a moment later somebody may.
var ErrAway = errors.New("the API server does not answer")

// Access is how the API server is reached.
type Access struct {
	Server string // URL
	CA     []byte // PEM
	Token  string
}

// kubeconfig is the part of kubectl's format that is needed, with its names.
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Clusters       []namedCluster `json:"clusters"`
	Users          []namedUser    `json:"users"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server string `json:"server"`
		CA     []byte `json:"certificate-authority-data"`
	} `json:"cluster"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		Token string `json:"token"`
	} `json:"user"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

// Kubeconfig is the file that says so, in the JSON of kubectl's format: people can try it.
func (a Access) Kubeconfig() ([]byte, error) {
	cluster, user, context := namedCluster{Name: Type}, namedUser{Name: Type}, namedContext{Name: Type}
	cluster.Cluster.Server, cluster.Cluster.CA, user.User.Token = a.Server, a.CA, a.Token
	context.Context.Cluster, context.Context.User = Type, Type
	return json.MarshalIndent(kubeconfig{"v1", "Config", []namedCluster{cluster}, []namedUser{user}, []namedContext{context}, Type}, "", "  ")
}

// ReadAccess reads such a file.
func ReadAccess(data []byte) (Access, error) {
	var k kubeconfig
	if err := json.Unmarshal(data, &k); err != nil {
		return Access{}, err
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return Access{}, fmt.Errorf("it has %d clusters and %d users instead of one", len(k.Clusters), len(k.Users))
	}
	a := Access{k.Clusters[0].Cluster.Server, k.Clusters[0].Cluster.CA, k.Users[0].User.Token}
	if u, err := url.Parse(a.Server); err != nil || u.Scheme != "https" || u.Host == "" {
		return Access{}, fmt.Errorf("server %q is no https URL", a.Server)
	}
	return a, nil
}

// maxPod bounds what is read of an answer: more than etcd takes in one object.
const maxPod = 4 << 20

// Pod asks the API server for a pod.
func (a Access) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.CA) {
		return nil, errors.New("the kubeconfig has no certificate of the API server's authority")
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Server+"/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(name), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.Token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", Type)
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch c := resp.StatusCode; {
	case c == http.StatusOK:
	case c == http.StatusNotFound:
		return nil, errors.New("the API server has no such pod (any more)")
	case c == http.StatusUnauthorized:
		return nil, fmt.Errorf("the API server no longer accepts the token of %s: the node agent renews it; is its pod on this node running?", Type)
	case c == http.StatusForbidden:
		return nil, fmt.Errorf("the API server does not let %s read pods: check its ClusterRole", Type)
	case c == http.StatusTooManyRequests || c >= 500:
		return nil, fmt.Errorf("%w: %s", ErrAway, resp.Status)
	default:
		return nil, fmt.Errorf("the API server answers %s", resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxPod))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(data, pod); err != nil {
		return nil, fmt.Errorf("reading the API server's answer: %w", err)
	}
	return pod, nil
}

// FromKubeconfig asks as the file in the plugin's configuration says. It is read each
// time: its token changes.
func FromKubeconfig(ctx context.Context, c *Config, namespace, name string) (*corev1.Pod, error) {
	data, err := os.ReadFile(c.Kubeconfig)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: the node agent has not written %s yet (it is lost when the node restarts); is its pod on this node running?", ErrAway, c.Kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	a, err := ReadAccess(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Kubeconfig, err)
	}
	return a.Pod(ctx, namespace, name)
}
