"""The networks of Figure 2, named as in the paper.

=====================================  ============================  ==========================================
paper                                  in code                       file
=====================================  ============================  ==========================================
Enc, Dec                               FaceEncoder, FaceDecoder      autoencoder.py
C_U, C_B, Eq. 3                        Codebook, vq_loss             codebook.py
F_e, F_d, G_RB, warped H_RB            AdaptiveFaceWarping           warping.py
E_aud, F_Aud                           AudioEncoder                  audio_encoder.py
MHCA (Eq. 8-9), CLN, FFN, Z_i          LipTransformer                transformer.py
Gumbel-softmax, H~_TB, I_Gen           lip_codes, LipFormer          lipformer.py
=====================================  ============================  ==========================================
"""
