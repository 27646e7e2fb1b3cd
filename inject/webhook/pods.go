package webhook

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
)

// inject answers /inject.
func (s *Server) inject(r review) (v verdict) {
	if r.Resource.Group != "" || r.Resource.Resource != "pods" || r.SubResource != "" || r.Operation != admissionv1.Create {
		return verdict{} // an ephemeral container, or a webhook that asks too much
	}
	began := time.Now()
	s.metrics.requests.Inc()
	defer func() { s.metrics.seconds.Observe(time.Since(began).Seconds()) }()
	fail := func(format string, args ...any) verdict {
		s.metrics.failures.Inc()
		return verdict{denied: fmt.Sprintf(format, args...)}
	}
	settings, err := s.o.Settings()
	if err != nil {
		return fail("the injector has no settings: %v", err)
	}
	in := inject.Input{Pod: &corev1.Pod{}, Namespace: inject.Namespace{Name: r.Namespace, Labels: s.o.Labels(r.Namespace)}}
	if err := json.Unmarshal(r.Object.Raw, in.Pod); err != nil {
		return fail("the pod cannot be read: %v", err)
	}
	if err := address(&in, r.path); err != nil {
		return fail("the address of the webhook: %v", err)
	}
	result := inject.Inject(in, settings)
	v = verdict{patch: result.Patch, audit: map[string]string{"reason": string(result.Decision.Reason)}}
	var why []string
	for _, f := range result.Findings {
		switch {
		case f.Severity == config.Error && result.Refused():
			why = append(why, sentence(f))
		case f.Severity >= config.Warning:
			v.warnings = append(v.warnings, warning(f))
		}
	}
	log := s.o.Log.With("namespace", r.Namespace, "pod", in.Pod.Name+in.Pod.GenerateName, "reason", result.Decision.Reason)
	switch {
	case result.Refused():
		s.metrics.failures.Inc()
		v.denied = "the pod cannot get its proxy: " + strings.Join(why, "; ")
		log.Warn("pod refused", "err", v.denied)
	case !result.Decision.Inject:
		s.metrics.skips.Inc()
		log.Debug("pod left alone")
	default:
		s.metrics.successes.Inc()
		log.Debug("pod injected")
	}
	return v
}

// address reads settings in the webhook's URL: "cluster/NAME/net/NETWORK", or Istio's
// other form ":ENV:cluster=NAME:ENV:net=NETWORK"; "--slash--" stands for "/".
func address(in *inject.Input, path string) error {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	var pairs [][2]string
	if rest, ok := strings.CutPrefix(path, ":ENV:"); ok {
		for p := range strings.SplitSeq(rest, ":ENV:") {
			k, v, _ := strings.Cut(p, "=")
			pairs = append(pairs, [2]string{k, v})
		}
	} else {
		parts := strings.Split(path, "/")
		if len(parts)%2 != 0 {
			return fmt.Errorf("%q is not of the form /inject/cluster/NAME/net/NETWORK", "/inject/"+path)
		}
		for i := 0; i < len(parts); i += 2 {
			pairs = append(pairs, [2]string{parts[i], parts[i+1]})
		}
	}
	for _, p := range pairs {
		value := strings.ReplaceAll(p[1], "--slash--", "/")
		switch p[0] {
		case "cluster", "ISTIO_META_CLUSTER_ID":
			in.Cluster = value
		case "net", "ISTIO_META_NETWORK":
			in.Network = value
		default:
			return fmt.Errorf("%q is neither cluster nor net", p[0])
		}
	}
	return nil
}
