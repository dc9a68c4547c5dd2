// Anchors the precompiled libtorch header that every torch module reuses.
