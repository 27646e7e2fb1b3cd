// Package webhook answers the API server's admission reviews: /inject gives pods their
// proxies (package inject), /validate judges configuration before it is stored.
//
// AdmissionReviews (v1 and v1beta1) enter over TLS; an answer leaves for every one of
// them. What cannot be done is refused with a sentence, also when the fault is ours: a
// pod that should have a proxy never runs without one because nobody said why.
//
// Server serves, Watcher keeps the settings and the namespaces' labels, Keeper keeps the
// API server's side right (caBundle, failurePolicy) and runs in the leader alone, Waker has
// those try again who could not make pods while nobody answered. All of them are for any
// number of goroutines. cmd/weir-control makes them.
package webhook

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
)

// Limits of one request and of all.
const (
	// maxReview: an API server takes objects of at most 3 MiB, of which an update has two.
	maxReview = 8 << 20
	// maxRequests bounds memory: reviews in work at once; more wait.
	maxRequests = 64
	// reviewTime is below the 10 s after which the API server gives up.
	reviewTime = 9 * time.Second
)

// Options are what a Server needs.
type Options struct {
	// Settings of injection; nil while there are none yet, and then why says what is missing.
	Settings func() (s *inject.Settings, why error)
	// Labels of a namespace; nil if it is not known.
	Labels func(namespace string) map[string]string
	// Validate judges an object beside all others.
	Validate func(*config.Object) []config.Finding
	// Certificate to serve with; nil if there is none.
	Certificate func() *tls.Certificate
	Metrics     prometheus.Registerer // nil: none
	Log         *slog.Logger
}

// Server answers reviews.
type Server struct {
	o       Options
	metrics *metrics
	places  chan struct{}
}

// New makes a Server.
func New(o Options) *Server {
	return &Server{o: o, metrics: newMetrics(o.Metrics), places: make(chan struct{}, maxRequests)}
}

// Handler serves /inject, /inject/…, /validate and /ready.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/inject", s.handle(s.inject))
	mux.HandleFunc("/inject/{rest...}", s.handle(s.inject))
	mux.HandleFunc("/validate", s.handle(s.validate))
	mux.HandleFunc("/validate/{rest...}", s.handle(s.validate))
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := s.o.Settings(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}

// Run serves on l until ctx ends.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.Handler(), ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: reviewTime, WriteTimeout: 2 * reviewTime, IdleTimeout: 90 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := s.o.Certificate(); c != nil {
				return c, nil
			}
			return nil, errors.New("there is no certificate to serve with")
		}},
	}
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTime) // reviews under way are answered
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
	})
	defer stop()
	if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving admission reviews: %w", err)
	}
	return nil
}

// review is one question.
type review struct {
	*admissionv1.AdmissionRequest
	path string // below the endpoint: settings in the URL
}

// verdict is its answer.
type verdict struct {
	denied   string // why; "" is yes
	patch    []inject.Op
	warnings []string
	audit    map[string]string
}

// handle reads a review, has it answered and writes the answer.
func (s *Server) handle(answer func(review) verdict) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.places <- struct{}{}:
			defer func() { <-s.places }()
		case <-r.Context().Done():
			return
		}
		switch media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
		case r.Method != http.MethodPost:
			http.Error(w, "post an AdmissionReview", http.StatusMethodNotAllowed)
			return
		case err != nil || media != "application/json":
			http.Error(w, "the Content-Type of an AdmissionReview is application/json", http.StatusUnsupportedMediaType)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReview))
		if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
			http.Error(w, fmt.Sprintf("the AdmissionReview has more than %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
			return
		} else if err != nil {
			http.Error(w, "reading the AdmissionReview: "+err.Error(), http.StatusBadRequest)
			return
		}
		out, err := s.review(body, r.PathValue("rest"), answer)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out) //nolint:gosec // it is JSON, and said to be; on an error who asked is gone
	}
}

// review answers the bytes of an AdmissionReview with those of another.
func (s *Server) review(body []byte, path string, answer func(review) verdict) ([]byte, error) {
	var in admissionv1.AdmissionReview // v1beta1 has the same fields
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("reading the AdmissionReview: %w", err)
	}
	switch {
	case in.Kind != "AdmissionReview" || in.APIVersion != "admission.k8s.io/v1" && in.APIVersion != "admission.k8s.io/v1beta1":
		return nil, fmt.Errorf("%s %s is not an AdmissionReview of version v1 or v1beta1", in.APIVersion, in.Kind)
	case in.Request == nil:
		return nil, errors.New("the AdmissionReview has no request")
	}
	response, err := s.safely(review{in.Request, path}, answer).response(in.Request.UID)
	if err != nil {
		return nil, err
	}
	return json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{Kind: in.Kind, APIVersion: in.APIVersion}, Response: response})
}

// safely turns a fault of ours into an answer.
func (s *Server) safely(r review, answer func(review) verdict) (v verdict) {
	defer func() {
		if fault := recover(); fault != nil {
			s.metrics.faults.Inc()
			s.o.Log.Error("a review ended in a fault", "err", fault, "kind", r.Kind.Kind, "namespace", r.Namespace, "name", r.Name, "stack", string(debug.Stack()))
			v = verdict{denied: fmt.Sprintf("this is a defect of weir-control (its log has the details): %v", fault)}
		}
	}()
	return answer(r)
}

// maxWarnings and maxWarning keep to what API servers pass on: 4 KiB in all.
const (
	maxWarnings = 16
	maxWarning  = 250
)

func (v verdict) response(uid types.UID) (*admissionv1.AdmissionResponse, error) {
	r := &admissionv1.AdmissionResponse{UID: uid, Allowed: v.denied == "", AuditAnnotations: v.audit}
	for i, w := range v.warnings {
		if i == maxWarnings {
			r.Warnings = append(r.Warnings, fmt.Sprintf("weir: and %d more", len(v.warnings)-i))
			break
		}
		if len(w) > maxWarning {
			w = w[:maxWarning-3] + "..."
		}
		r.Warnings = append(r.Warnings, w)
	}
	if !r.Allowed {
		r.Result = &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity, Message: "weir: " + v.denied}
		return r, nil
	}
	if len(v.patch) == 0 {
		return r, nil
	}
	data, err := json.Marshal(v.patch)
	if err != nil {
		return nil, fmt.Errorf("writing the patch: %w", err)
	}
	kind := admissionv1.PatchTypeJSONPatch
	r.Patch, r.PatchType = data, &kind
	return r, nil
}

// sentence is a finding without the object, which the reader has before him.
func sentence(f config.Finding) string {
	s := f.Message
	if f.FieldPath != "" {
		s = f.FieldPath + ": " + s
	}
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

func warning(f config.Finding) string { return "weir " + string(f.Code) + ": " + sentence(f) }
